import { Flags } from '@oclif/core';
import { BaseCommand, configFlag } from '../src/base-command.ts';
import { loadConfig } from '../src/config.ts';
import { keyFile } from '../src/identity/client-identity.ts';
import { enrol } from '../src/identity/enrolled.ts';
import { readToken } from '../src/secret-input.ts';
import { openServices } from '../src/services.ts';

/** Enrols this client at the HPCS server. */
export default class Enrol extends BaseCommand {
  static override summary = 'enrol this client at the HPCS server with a one-time token';
  static override description = `The token is read from standard input (a terminal asks for it, and does not show it), or from a file: other users of this machine can see what stands in a command line. \
A key pair is made here and its private half never leaves; every later call proves that it is held. Keep the state directory.`;
  static override examples = ['<%= config.bin %> enrol', '<%= config.bin %> enrol --token-file token'];
  static override flags = {
    config: configFlag,
    'token-file': Flags.string({ summary: 'file that holds the token (default: standard input)', helpValue: 'FILE' }),
  };

  async run(): Promise<{ name: string; clientId: string; spiffeId: string; file: string }> {
    const { flags } = await this.parse(Enrol);
    const config = await loadConfig(flags.config);
    const file = await keyFile(config);
    using token = await readToken({
      file: flags['token-file'],
      what: 'enrolment token',
      form: /^[A-Za-z0-9_-]{43}$/,
      expected: {
        form: 'one has 43 letters, digits, - and _',
        suggestion: 'ask those who run the HPCS server for one: hpcs server enrol',
      },
      signal: this.signal,
    });
    await using services = await openServices(config);
    const { name, clientId, spiffeId } = await enrol(services.server, token, {
      file,
      url: config['hpcs-server'].url,
      signal: this.signal,
    });
    this.log(`enrolled as ${name}: client ${clientId}\nits key: ${file}`);
    return { name, clientId, spiffeId, file };
  }
}
