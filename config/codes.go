package config

// The codes of diagnostics. A code keeps its meaning for ever.
const (
	codeSyntax    = "KRG1001"
	codeLimit     = "KRG1002"
	codeUnread    = "KRG1003"
	codeUnknown   = "KRG1010"
	codeLabels    = "KRG1011"
	codeType      = "KRG1012"
	codeMissing   = "KRG1013"
	codeWord      = "KRG1014"
	codeTwice     = "KRG1015"
	codeKeyTwice  = "KRG1016"
	codeString    = "KRG1017"
	codeExpr      = "KRG1018"
	codePlace     = "KRG1019"
	codeDuration  = "KRG1020"
	codeRange     = "KRG1021"
	codeName      = "KRG1022"
	codeFormat    = "KRG1023"
	codeWeights   = "KRG1030"
	codeReference = "KRG1031"
	codeCycle     = "KRG1032"
	codeEmpty     = "KRG1033"
	codeRegex     = "KRG1034"
	codeFilter    = "KRG1035"
	codeExclusive = "KRG1036"
	codeLater     = "KRG1040"
	codeShadowed  = "KRG1050"
	codeNoMatch   = "KRG1051"
	codeNoRest    = "KRG1052"
	codeNever     = "KRG1053"
	codeUnseen    = "KRG1054"
)

// Code explains one diagnostic code.
type Code struct {
	Code, Severity, Meaning string
}

// Codes lists every diagnostic code, in order.
func Codes() []Code {
	return []Code{
		{codeSyntax, "error", "the text is not HCL"},
		{codeLimit, "error", "a limit of size, depth or number is passed"},
		{codeUnread, "error", "a file cannot be read"},
		{codeUnknown, "error", "no block or argument has this name here"},
		{codeLabels, "error", "a block has too few or too many labels"},
		{codeType, "error", "a value has the wrong type"},
		{codeMissing, "error", "a required argument or block is missing"},
		{codeWord, "error", "a word is none of those allowed"},
		{codeTwice, "error", "a block or argument is there twice"},
		{codeKeyTwice, "error", "an object has one key twice"},
		{codeString, "error", "a string holds a template or an unknown escape"},
		{codeExpr, "error", "an expression stands where a plain value is meant"},
		{codePlace, "error", "a setting of a process among mesh configuration, or the reverse"},
		{codeDuration, "error", "a duration is malformed, zero or negative"},
		{codeRange, "error", "a number is out of its range"},
		{codeName, "error", "a name is not allowed"},
		{codeFormat, "error", "a text has not the form it needs"},
		{codeWeights, "error", "the weights of a rule do not add up to 100"},
		{codeReference, "error", "a name refers to nothing"},
		{codeCycle, "error", "a redirect or rewrite leads to itself"},
		{codeEmpty, "error", "an empty intention, or a rule that does nothing"},
		{codeRegex, "error", "a regular expression is not RE2, or too big"},
		{codeFilter, "error", "a filter does not parse or names an unknown selector"},
		{codeExclusive, "error", "two arguments exclude each other"},
		{codeLater, "error", "a block or argument that is not supported yet"},
		{codeShadowed, "warning", "a deny shadows every allow"},
		{codeNoMatch, "warning", "a subset's filter matches no instance"},
		{codeNoRest, "warning", "a canary by match has no rule for the rest"},
		{codeNever, "warning", "a rule can never be reached"},
		{codeUnseen, "warning", "a service that no registry and no file knows"},
	}
}
