package main

// vmMutations are those that only a real VM shows: of the agent in the guest, of what ends with a
// process, and of what the host's and the guest's kernels do together.
var vmMutations = []mutation{
	{
		"a VM outlives its shim", "vm/jail/keeper.go",
		"Setpgid: true, Pdeathsig: unix.SIGKILL,", "Setpgid: true,",
		"test/e2e", "TestShimKilled",
	},
	{
		"the network of a killed shim stays", "shim/manager/manager.go",
		"		errs = append(errs, network.Sweep(record.Network))\n", "		_ = network.Sweep\n",
		"test/e2e", "TestNetworkAfterKill",
	},
	{
		"a spare's processes stay outside of the container's control group", "shim/sandbox/spare.go",
		"	return p.claim(bundle, config, others...)\n", "	_ = others\n	return p.claim(bundle, config)\n",
		"test/e2e", "TestSpares",
	},
	{
		"the guest is not told the time", "shim/sandbox/boot.go",
		"		go s.tellTime(context.WithoutCancel(ctx), s.platform.ClockJumps)\n", "",
		"test/e2e", "TestPatience",
	},
	{
		"memory that the guest has freed stays", "shim/sandbox/boot.go",
		"		ReturnMemory: p.platform.ReturnMemory,\n", "",
		"test/e2e", "TestPatience",
	},
	{
		"hooks are in the container's control group", "shim/task/hooks.go",
		"		runner.Outside = place.Outside\n", "		_ = place.Outside\n",
		"test/e2e", "TestHooks",
	},
	{
		"an error in an image panics the guest's kernel", "guest/image/image.go",
		"[]string{\"errors=remount-ro\"}", "[]string{\"errors=panic\"}",
		"test/e2e", "TestImagesRefused",
	},
}
