package command

// commands is every subcommand.
func commands() []Command {
	return []Command{
		versionCommand(),
	}
}
