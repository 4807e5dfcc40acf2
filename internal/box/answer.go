package box

import (
	"fmt"
	"math/big"
	"regexp"
)

// sum is a question that the built-in engine can answer: "what is 2 + 2?", or the sum alone.
var sum = regexp.MustCompile(`(?i)(?:^\s*|\bwhat(?:'s|\s+is)\s+)(-?\d{1,18})\s*([-+*/x×÷])\s*(-?\d{1,18})\s*[=?.!]*\s*$`)

// reckon is all that the built-in engine can do: sums of two numbers.
func reckon(question string) string {
	const who = "(the built-in demo engine, not a model) "
	w := sum.FindStringSubmatch(question)
	if w == nil {
		return who + `I work out sums of two numbers, as in "what is 2 + 2?". For more, connect to a box that has a model: rlca connect user@host`
	}
	a, _ := new(big.Int).SetString(w[1], 10) // digits only
	b, _ := new(big.Int).SetString(w[3], 10)
	op, result := w[2], new(big.Int)
	switch op {
	case "+":
		result.Add(a, b)
	case "-":
		result.Sub(a, b)
	case "/", "÷":
		if b.Sign() == 0 {
			return who + "nothing can be divided by 0"
		}
		quotient, rest := new(big.Int).QuoRem(a, b, new(big.Int))
		if rest.Sign() != 0 {
			return fmt.Sprintf("%s%s / %s = %s, remainder %s", who, a, b, quotient, rest)
		}
		op, result = "/", quotient
	default:
		op = "*"
		result.Mul(a, b)
	}
	return fmt.Sprintf("%s%s %s %s = %s", who, a, op, b, result)
}
