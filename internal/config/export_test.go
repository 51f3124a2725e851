package config

// ParseOn is Parse on a machine with the given name.
func ParseOn(hostname, name string, data []byte) (*Config, error) {
	return parse(name, data, func() (string, error) { return hostname, nil })
}
