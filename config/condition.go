package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// condition is a compiled filter: a tree of plain data.
type condition struct {
	op          operator
	left, right *condition
	field       field
	key         string // of metadata
	value       string
	re          *regexp.Regexp
}

type operator uint8

const (
	opNot operator = iota
	opAnd
	opOr
	opEqual
	opIn
	opEmpty
	opMatches
)

type field uint8

const (
	fieldID field = iota
	fieldPort
	fieldTags
	fieldMeta
	fieldMetaKeys
	fieldNode
	fieldNodeMeta
	fieldNodeMetaKeys
	fieldDatacenter
	fieldNamespace
	fieldSource
)

func (f field) list() bool { return f == fieldTags || f == fieldMetaKeys || f == fieldNodeMetaKeys }

var selectors = map[string]field{
	"Service.ID": fieldID, "Service.Port": fieldPort, "Service.Tags": fieldTags, "Service.Meta": fieldMetaKeys,
	"Node": fieldNode, "Node.Meta": fieldNodeMetaKeys, "Datacenter": fieldDatacenter, "Namespace": fieldNamespace, "Source": fieldSource,
}

type unknownSelector struct{ name string }

func (u *unknownSelector) Error() string {
	return fmt.Sprintf("names %s, which no instance has", u.name)
}

// fix keeps the key of a misspelt Service.Meta.key.
func (u *unknownSelector) fix() string {
	names := slices.Sorted(maps.Keys(selectors))
	parts := strings.SplitN(u.name, ".", 3)
	near := nearest(strings.Join(parts[:min(2, len(parts))], "."), names)
	if len(parts) == 3 && (near == "Service.Meta" || near == "Node.Meta") {
		return "Did you mean " + quoted(near+"."+parts[2]) + "?"
	}
	return didYouMean(u.name, names)
}

// selector finds what a path reads. A key of metadata may hold dots of its own.
func selector(path []string) (field, string, error) {
	name := strings.Join(path, ".")
	if f, ok := selectors[name]; ok {
		return f, "", nil
	}
	if k, ok := strings.CutPrefix(name, "Service.Meta."); ok {
		return fieldMeta, k, nil
	}
	if k, ok := strings.CutPrefix(name, "Node.Meta."); ok {
		return fieldNodeMeta, k, nil
	}
	return 0, "", &unknownSelector{name}
}

func (c *condition) compileRegex() error {
	if problem, _ := checkRegex(c.value); problem != "" {
		return fmt.Errorf("has an expression that %s", problem)
	}
	re, err := regexp.Compile(c.value)
	c.re = re
	return err
}

// Match says whether the instance fulfils the condition. A missing key equals
// nothing, contains nothing and is empty, as in bexpr.
func (c *condition) Match(i *mesh.Instance) bool {
	switch c.op {
	case opNot:
		return !c.left.Match(i)
	case opAnd:
		return c.left.Match(i) && c.right.Match(i)
	case opOr:
		return c.left.Match(i) || c.right.Match(i)
	}
	if c.field.list() {
		return c.matchList(i)
	}
	v, found := c.read(i)
	switch c.op {
	case opEqual:
		return found && v == c.value
	case opIn:
		return found && strings.Contains(v, c.value)
	case opEmpty:
		return v == ""
	}
	return found && c.re.MatchString(v)
}

func (c *condition) matchList(i *mesh.Instance) bool {
	m := i.Meta
	if c.field == fieldNodeMetaKeys {
		m = i.NodeMeta
	}
	if c.field != fieldTags {
		switch c.op {
		case opIn:
			_, ok := m[c.value]
			return ok
		case opEmpty:
			return len(m) == 0
		}
		for k := range m {
			if c.re.MatchString(k) {
				return true
			}
		}
		return false
	}
	switch c.op {
	case opIn:
		return slices.Contains(i.Tags, c.value)
	case opEmpty:
		return len(i.Tags) == 0
	}
	return slices.ContainsFunc(i.Tags, c.re.MatchString)
}

func (c *condition) read(i *mesh.Instance) (string, bool) {
	switch c.field {
	case fieldID:
		return i.ID, true
	case fieldPort:
		return strconv.Itoa(int(i.Addr.Port())), true
	case fieldMeta:
		v, ok := i.Meta[c.key]
		return v, ok
	case fieldNode:
		return i.Node, true
	case fieldNodeMeta:
		v, ok := i.NodeMeta[c.key]
		return v, ok
	case fieldDatacenter:
		return i.Datacenter, true
	case fieldNamespace:
		return i.Namespace, true
	}
	return i.Source, true
}
