package fhirpath

// Kind says what a Node is.
type Kind uint8

// The kinds of nodes.
const (
	KindEmpty    Kind = iota // {}
	KindLiteral              // Literal
	KindVariable             // %Name
	KindSpecial              // $this, $index, $total: Name without the $
	KindMember               // Input.Name; without an Input, Name begins a path
	KindCall                 // Input.Name(Args); without an Input, of what the path begins with
	KindIndex                // Input[Args[0]]
	KindUnary                // Name is + or -, of Args[0]
	KindBinary               // Args[0] Name Args[1]
	KindType                 // Args[0] is Type, Args[0] as Type: Name is "is" or "as"
)

// Node is a part of a parsed expression. Who reads it changes nothing.
type Node struct {
	Kind     Kind
	Name     string
	Type     string // of KindType: the name, with the namespace if there is one ("FHIR.Patient")
	Input    *Node
	Args     []*Node
	Literal  *Literal
	Position int // of its name, its operator or else its first byte; from 1
	// Start and End are the positions of the first byte and of that behind the last, so that
	// expr[Start-1:End-1] is an expression by itself. Parentheses around it are outside.
	Start, End int
}

// LiteralKind says what a Literal is.
type LiteralKind uint8

// The kinds of literals.
const (
	LiteralBoolean LiteralKind = iota
	LiteralInteger
	LiteralDecimal
	LiteralString
	LiteralDate
	LiteralDateTime
	LiteralTime
	LiteralQuantity
)

// Literal is a constant of an expression.
type Literal struct {
	Kind LiteralKind
	// Text is the unescaped value of a string, and what was written of everything else: true,
	// 1.50, 2015-02 (without the @, and without the T of a time). Of a quantity it is the number.
	Text string
	// Unit of a quantity: a UCUM code, or the word of a calendar duration if Calendar is set.
	Unit     string
	Calendar bool
}

// TypeName gives the name that a node spells if it is nothing but names joined by dots, as the
// argument of ofType() must be.
func (n *Node) TypeName() (string, bool) {
	if n.Kind != KindMember {
		return "", false
	}
	if n.Input == nil {
		return n.Name, true
	}
	if n.Input.Kind == KindMember && n.Input.Input == nil {
		return n.Input.Name + "." + n.Name, true
	}
	return "", false
}
