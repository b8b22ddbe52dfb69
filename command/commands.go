package command

// commands is every subcommand.
func commands() []Command {
	return []Command{
		serverCommand(),
		statusCommand(), servicesCommand(), proxiesCommand(), intentionsCommand(), explainCommand(),
		validateCommand(), fmtCommand(), planCommand(), applyCommand(),
		group("token", "Join tokens for hosts"), tokenCreateCommand(),
		group("ca", "The mesh's certificate authority"), caStatusCommand(), caRootCommand(),
		versionCommand(),
	}
}
