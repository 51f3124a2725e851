package recovery

// Entropy returns what the words stand for, in the secret's own memory.
func (s *Secret) Entropy() []byte { return s.entropy() }
