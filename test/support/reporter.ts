import mocha from 'mocha';

/** What keeps this process alive, a word or a command line each. */
function alive(): string[] {
  type Handle = { spawnargs?: string[]; pid?: number; remoteAddress?: string; remotePort?: number; fd?: number };
  const handles = (process as unknown as { _getActiveHandles(): Handle[] })._getActiveHandles().map((handle) => {
    if (handle.spawnargs) return `process ${handle.pid}: ${handle.spawnargs.join(' ')}`;
    return `${handle.constructor.name} ${handle.remoteAddress ?? ''}:${handle.remotePort ?? ''} ${handle.fd ?? ''}`;
  });
  return [...process.getActiveResourcesInfo(), ...handles];
}

/** The spec reporter, closed by one plain line that a machine can read. */
export default class PlainReporter extends mocha.reporters.Spec {
  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    runner.once('end', () => {
      const { passes = 0, failures = 0, pending = 0 } = runner.stats ?? {};
      process.stdout.write(`\n${passes} passed, ${failures} failed${pending > 0 ? `, ${pending} skipped` : ''}\n`);
      // What a test left running would keep the whole run from its end, without a word.
      setTimeout(() => {
        process.stderr.write(`the tests are done, but something keeps running:\n  ${alive().join('\n  ')}\n`);
        process.exit(failures === 0 ? 0 : 1);
      }, 30_000).unref();
    });
  }
}
