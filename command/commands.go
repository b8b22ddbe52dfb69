package command

// commands is every subcommand.
func commands() []Command {
	return []Command{
		statusCommand(), servicesCommand(), proxiesCommand(), intentionsCommand(), explainCommand(),
		planCommand(), applyCommand(),
		tokenCreateCommand(),
		caStatusCommand(), caRootCommand(),
		versionCommand(),
	}
}
