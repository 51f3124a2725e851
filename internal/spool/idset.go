package spool

// idSet is a set of message numbers. Those near each other, as they mostly are,
// take a bit each.
type idSet map[ID]*[8]uint64

func (s idSet) has(id ID) bool {
	b := s[id>>9]
	return b != nil && b[id>>6&7]>>(id&63)&1 == 1
}

func (s idSet) add(id ID) {
	b := s[id>>9]
	if b == nil {
		b = new([8]uint64)
		s[id>>9] = b
	}
	b[id>>6&7] |= 1 << (id & 63)
}

func (s idSet) remove(id ID) {
	b := s[id>>9]
	if b == nil {
		return
	}
	b[id>>6&7] &^= 1 << (id & 63)
	if *b == [8]uint64{} {
		delete(s, id>>9)
	}
}
