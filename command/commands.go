package command

// commands is every subcommand.
func commands() []Command {
	return []Command{
		serverCommand(), agentCommand(), agentStatusCommand(), envoyCommand(), devCommand(), devGuardCommand(),
		joinCommand(), leaveCommand(), waitCommand(),
		group("capture", "Steer traffic through Envoy with iptables, reversibly"), capturePlanCommand(), captureApplyCommand(), captureConfirmCommand(),
		captureStatusCommand(), captureVerifyCommand(), captureRemoveCommand(),
		captureGuardCommand(), captureDialCommand(),
		statusCommand(), servicesCommand(), proxiesCommand(), intentionsCommand(), explainCommand(),
		validateCommand(), fmtCommand(), planCommand(), applyCommand(), rollbackCommand(), historyCommand(), freezeCommand(), thawCommand(),
		group("token", "Join tokens for hosts"), tokenCreateCommand(),
		group("node", "Hosts that have joined"), nodeListCommand(), nodeEvictCommand(), nodeBanCommand(), nodeUnbanCommand(),
		group("ca", "The mesh's certificate authority"), caStatusCommand(), caRootCommand(),
		versionCommand(),
	}
}
