package command

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

const fileUsage = `Without FILE it is the one that the shim reads: config.toml where msb is installed, or else
` + config.Path + `. Drop-ins count: *.toml in the directory beside it, config.d for config.toml.
FILE is for another, which containerd names by a runtime's ConfigPath.`

func configCommand() *cli.Command {
	return group(&cli.Command{
		Name: "config", Usage: "print and check the configuration",
		Commands: []*cli.Command{
			{
				Name: "default", Usage: "print the configuration with its defaults and what they mean",
				Action: configDefault,
			},
			{
				Name: "validate", Usage: "tell all that is wrong with the configuration", ArgsUsage: "[FILE]",
				Description: fileUsage + "\n\nExit codes: 0 it is right; 1 it is wrong, or cannot be read, or a file that it names for traces cannot.",
				Flags:       []cli.Flag{jsonFlag()}, Action: configValidate,
			},
			{
				Name: "show", Usage: "print each setting, and which line sets it", ArgsUsage: "[FILE]",
				Description: fileUsage,
				Flags:       []cli.Flag{jsonFlag()}, Action: configShow,
			},
		},
	})
}

func configDefault(_ context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	_, err := fmt.Fprint(c.Root().Writer, config.Commented())
	return err
}

// layersOf are those of the file that a command is given, or of the shim's.
func layersOf(c *cli.Command) ([]config.Layer, error) {
	args, err := arguments(c, 0, 1)
	if err != nil {
		return nil, err
	}
	return config.Layers(append(args, "")[0])
}

func configValidate(_ context.Context, c *cli.Command) error {
	layers, err := layersOf(c)
	var unreadable config.Unreadable
	if err != nil && !errors.As(err, &unreadable) {
		return err
	}
	err = nil
	problems := slices.Concat([]config.Problem(unreadable), config.Check(layers), config.CheckFiles(layers))
	files := []string{}
	for _, layer := range layers {
		files = append(files, layer.Origin)
	}
	out := c.Root().Writer
	switch {
	case c.Bool("json"):
		err = printJSON(out, struct {
			Files    []string         `json:"files"`
			Problems []config.Problem `json:"problems"`
		}{files, append([]config.Problem{}, problems...)})
	case len(files) == 0 && len(problems) == 0:
		_, err = fmt.Fprintln(out, "there is no file: all settings have their defaults")
	case len(problems) == 0:
		for _, file := range files {
			fmt.Fprintf(out, "%s: right\n", visible(file))
		}
	default:
		for _, problem := range problems {
			fmt.Fprintln(out, visible(problem.String()))
		}
	}
	if err == nil && len(problems) > 0 {
		return told(exitFailed)
	}
	return err
}

func configShow(_ context.Context, c *cli.Command) error {
	layers, err := layersOf(c)
	if err != nil {
		return err
	}
	settings, err := config.Settings(layers)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, settings)
	}
	table := columns(c.Root().Writer)
	fmt.Fprintln(table, "SETTING\tVALUE\tFROM")
	for _, s := range settings {
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.Key, orDash(s.Value), visible(s.Origin))
	}
	return table.Flush()
}

// orDash is a field of a table that may have nothing in it.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
