package cut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's linux/sock_diag.h and linux/inet_diag.h.
const (
	diagByFamily = 20
	diagDestroy  = 21
	reqSize      = 56 // inet_diag_req_v2
	msgSize      = 72 // inet_diag_msg
	idSize       = 48 // inet_diag_sockid
	idOffset     = 4  // in inet_diag_msg; in the request it is 8
	header       = unix.SizeofNlMsghdr
	// States in which there is a peer to be cut off: established, both kinds of
	// waiting for one side's end.
	alive = 1<<1 | 1<<4 | 1<<5 | 1<<8
)

// socket is the kernel's name of one socket: addresses and a cookie that no
// other socket has, so that what took its place is never meant.
type socket struct {
	family byte
	id     [idSize]byte
}

func (s socket) cookie() uint64 { return binary.NativeEndian.Uint64(s.id[40:]) }

func (s socket) local() netip.Addr { return address(s.family, s.id[4:20]) }

func (s socket) peer() netip.AddrPort {
	return netip.AddrPortFrom(address(s.family, s.id[20:36]), binary.BigEndian.Uint16(s.id[2:]))
}

func address(family byte, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

// diag asks the kernel about TCP sockets of the network namespace it was opened
// in. It is not safe for concurrent use.
type diag struct {
	fd  int
	seq uint32
}

func openDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("asking the kernel for its sockets: %w", err)
	}
	// A kernel that does not answer must not hold the agent up.
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("asking the kernel for its sockets: %w", err)
	}
	return &diag{fd: fd}, nil
}

func (d *diag) close() { unix.Close(d.fd) }

// find is the socket with both addresses.
func (d *diag) find(local, peer netip.AddrPort) (socket, bool, error) {
	s := named(local, peer)
	list, err := d.ask(diagByFamily, 0, s)
	if errors.Is(err, unix.ENOENT) || err == nil && (len(list) == 0 || list[0].peer() != peer) {
		return socket{}, false, nil // a listener answers for who is not there
	}
	if err != nil {
		return socket{}, false, fmt.Errorf("looking for the socket of %s: %w", peer, err)
	}
	return list[0], true, nil
}

// search is every socket of a local port that has this peer.
func (d *diag) search(port uint16, peer netip.AddrPort) (out []socket, err error) {
	s := named(netip.AddrPortFrom(netip.Addr{}, port), peer)
	clear(s.id[20:36]) // a listing is chosen by ports alone
	list, err := d.ask(diagByFamily, unix.NLM_F_DUMP, s)
	if err != nil {
		return nil, fmt.Errorf("looking for the sockets of %s: %w", peer, err)
	}
	for _, s := range list {
		if s.peer() == peer {
			out = append(out, s)
		}
	}
	return out, nil
}

// cookies are those of all sockets with a peer.
func (d *diag) cookies() (map[uint64]bool, error) {
	out := map[uint64]bool{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		list, err := d.ask(diagByFamily, unix.NLM_F_DUMP, socket{family: family})
		if err != nil {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for _, s := range list {
			out[s.cookie()] = true
		}
	}
	return out, nil
}

// destroy ends a connection as a reset would, on both sides.
func (d *diag) destroy(s socket) (gone bool, err error) {
	_, err = d.ask(diagDestroy, unix.NLM_F_ACK, s)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		return true, nil
	case errors.Is(err, unix.EPERM):
		return false, fmt.Errorf("ending a connection: %w: the agent needs CAP_NET_ADMIN for it", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return false, fmt.Errorf("ending a connection: %w: the kernel needs CONFIG_INET_DIAG_DESTROY for it", err)
	case err != nil:
		return false, fmt.Errorf("ending a connection: %w", err)
	}
	return false, nil
}

// named is a socket by its addresses, with any cookie.
func named(local, peer netip.AddrPort) socket {
	s := socket{family: unix.AF_INET}
	if !peer.Addr().Is4() {
		s.family = unix.AF_INET6
	}
	binary.BigEndian.PutUint16(s.id[0:], local.Port())
	binary.BigEndian.PutUint16(s.id[2:], peer.Port())
	copy(s.id[4:20], local.Addr().AsSlice())
	copy(s.id[20:36], peer.Addr().AsSlice())
	for i := 40; i < idSize; i++ {
		s.id[i] = 0xff
	}
	return s
}

// ask sends one request and reads its answer to the end.
func (d *diag) ask(kind uint16, flags uint16, s socket) ([]socket, error) {
	d.seq++
	req := make([]byte, header+reqSize)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], kind)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(req[8:], d.seq)
	body := req[header:]
	body[0], body[1] = s.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], alive)
	copy(body[8:], s.id[:])
	if err := unix.Sendto(d.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out []socket
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(d.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		done, err := d.parse(buf[:n], flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP, &out)
		if done || err != nil {
			return out, err
		}
	}
}

// parse takes one datagram; done: nothing follows.
func (d *diag) parse(b []byte, dump bool, out *[]socket) (done bool, err error) {
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint32(b))
		kind, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
		if size < header || size > len(b) {
			return true, errors.New("the kernel's answer is cut short")
		}
		body := b[header:size]
		b = b[min((size+3)&^3, len(b)):]
		if seq != d.seq {
			continue // of a question that was given up
		}
		switch {
		case kind == unix.NLMSG_DONE:
			return true, nil
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
				return true, unix.Errno(-code)
			}
			return true, nil
		case kind == diagByFamily && len(body) >= msgSize:
			s := socket{family: body[0]}
			copy(s.id[:], body[idOffset:])
			*out = append(*out, s)
			if !dump {
				return true, nil
			}
		}
	}
	return false, nil
}
