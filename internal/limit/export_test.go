package limit

// Len returns how many holders are remembered.
func (b *Budget[K]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.paid)
}
