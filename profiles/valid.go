package profiles

import "errors"

// Check says what Load would refuse in a profile that was not read from a file, such as one with flags laid over it.
func (p *Profile) Check() error {
	_, err := Parse("", render(p))
	var bad Problems
	if !errors.As(err, &bad) {
		return err
	}
	var all []error
	for _, one := range bad {
		all = append(all, errors.New(one.Msg)) // nobody has seen that text: its lines say nothing
	}
	return errors.Join(all...)
}
