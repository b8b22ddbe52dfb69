package server

import (
	"encoding/binary"
	"errors"
)

// HTTP/2, as far as it says which bytes are of which message: RFC 9113, 4.1 and 6.
const (
	preface     = 24 // bytes that a client begins with
	frameHeader = 9

	frameData      = 0x0
	frameHeaders   = 0x1
	frameReset     = 0x3
	flagEndStream  = 0x1
	flagPadded     = 0x8
	messagePrefix  = 5 // of a gRPC message: a flag and its length
	lengthInPrefix = 1
)

var errPadded = errors.New("it pads its data, which no gRPC client does")

// frames follows one direction of a connection, in pieces of any size.
type frames struct {
	skip   int // bytes before the next frame's header, or of a payload that nobody looks at
	head   [frameHeader]byte
	had    int // bytes of head
	data   int // bytes left of a DATA frame's payload
	stream uint32
	ends   bool // with this frame the stream ends
}

// frameSink hears of what matters in a direction.
type frameSink interface {
	begun(stream uint32)            // HEADERS
	came(stream uint32, b []byte)   // a piece of DATA
	framed(stream uint32, size int) // a DATA frame begins, of so many bytes
	ended(stream uint32)            // this side has ended the stream, or both
}

func (f *frames) read(b []byte, to frameSink) error {
	for len(b) > 0 {
		switch {
		case f.skip > 0:
			n := min(f.skip, len(b))
			f.skip, b = f.skip-n, b[n:]
		case f.data > 0:
			n := min(f.data, len(b))
			to.came(f.stream, b[:n])
			f.data, b = f.data-n, b[n:]
			if f.data == 0 && f.ends {
				to.ended(f.stream)
			}
		default:
			n := copy(f.head[f.had:], b)
			f.had, b = f.had+n, b[n:]
			if f.had == frameHeader {
				f.had = 0
				if err := f.begin(to); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (f *frames) begin(to frameSink) error {
	size := int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
	kind, flags := f.head[3], f.head[4]
	f.stream = binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31)
	f.ends = flags&flagEndStream != 0
	switch kind {
	case frameData:
		if flags&flagPadded != 0 {
			return errPadded
		}
		if f.data = size; size > 0 {
			to.framed(f.stream, size)
		} else if f.ends {
			to.ended(f.stream)
		}
		return nil
	case frameHeaders:
		to.begun(f.stream)
		if f.ends {
			to.ended(f.stream)
		}
	case frameReset:
		to.ended(f.stream)
	}
	f.skip = size
	return nil
}

// message is how far a stream is in the gRPC message that it sends.
type message struct {
	prefix [messagePrefix]byte
	had    int // bytes of prefix
	left   int // bytes that come after it
	held   int // what it costs so far
}

// take goes on by b. It returns how much less the message costs than b cost,
// where it, and those after it, have ended.
func (m *message) take(b []byte) (freed int) {
	for {
		if m.had < messagePrefix {
			n := copy(m.prefix[m.had:], b)
			m.had, b = m.had+n, b[n:]
			if m.had < messagePrefix {
				return freed
			}
			m.left = int(binary.BigEndian.Uint32(m.prefix[lengthInPrefix:]))
		}
		n := min(m.left, len(b))
		m.left, b = m.left-n, b[n:]
		if m.left > 0 {
			return freed
		}
		m.had = 0
		freed, m.held = freed+m.held, 0
		if len(b) == 0 {
			return freed
		}
	}
}
