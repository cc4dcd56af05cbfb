import { Command, Flags } from '@oclif/core';
import { HpcsError, messageOf } from './errors.ts';

/**
 * What every command shares: `--json`, one abort signal for Ctrl-C and its kin, one form of error.
 *
 * Results go to standard output; progress and warnings go to standard error.
 */
export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true;

  readonly #abort = new AbortController();

  /** Aborted by the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once. */
  protected get signal(): AbortSignal {
    return this.#abort.signal;
  }

  protected override async init(): Promise<void> {
    await super.init();
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, this.#interrupt);
  }

  readonly #interrupt = (): void => {
    if (this.#abort.signal.aborted) process.exit(130);
    process.stderr.write('hpcs: interrupted, cleaning up (again to stop at once)\n');
    this.#abort.abort(new HpcsError('interrupted', 'interrupted', 'interrupted'));
  };

  /** One line of progress for people, on standard error. Quiet with `--json`. */
  protected progress = (message: string): void => {
    if (!this.jsonEnabled()) process.stderr.write(`${message}\n`);
  };

  /** A warning, also shown with `--json`. */
  protected warning = (message: string): void => {
    process.stderr.write(`warning: ${message}\n`);
  };

  protected override async catch(error: Error & { exitCode?: number; oclif?: { exit?: number } }): Promise<void> {
    const known = asHpcsError(error, this.signal);
    process.exitCode = known.exitCode;
    if (this.jsonEnabled()) this.logJson(known.toJSON());
    process.stderr.write(`hpcs: error: ${known.message}\n`);
    if (known.suggestion !== undefined) process.stderr.write(`  ${known.suggestion}\n`);
    if (known.kind === 'bug' || process.env['DEBUG']?.includes('hpcs')) process.stderr.write(`${known.stack}\n`);
    if (known.cause !== undefined && process.env['DEBUG']?.includes('hpcs'))
      process.stderr.write(`caused by: ${messageOf(known.cause)}\n`);
  }

  protected override async finally(error: Error | undefined): Promise<void> {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(name, this.#interrupt);
    await super.finally(error);
  }
}

/** The flag that every command with a configuration has. */
export const configFlag = Flags.string({
  summary: 'configuration file (default: HPCS_CONFIG, ./hpcs-client.conf, XDG, /tmp/hpcs-client.conf)',
  helpValue: 'FILE',
});

// oclif's own parse errors carry an exit code of 2 in `oclif.exit`.
function asHpcsError(error: Error & { oclif?: { exit?: number } }, signal: AbortSignal): HpcsError {
  if (error instanceof HpcsError) return error;
  if (signal.aborted && signal.reason instanceof HpcsError) return signal.reason;
  if (error.oclif?.exit === 2) {
    const [first = '', ...rest] = error.message.split('\n');
    return new HpcsError(
      'usage',
      'usage',
      [first, ...rest.filter((line) => line && !line.startsWith('See more help'))].join('\n  '),
      {
        suggestion: 'see --help',
      },
    );
  }
  return new HpcsError('bug', 'bug', messageOf(error), { cause: error });
}
