import { BaseCommand, configFlag } from '../src/base-command.ts';
import { loadConfig } from '../src/config.ts';
import { logIn, loginFile } from '../src/identity/login.ts';
import { openServices } from '../src/services.ts';

/** Logs a person in. */
export default class Login extends BaseCommand {
  static override summary = 'log in at the identity provider, with a browser on any machine';
  static override description = `Shows an address and a code (device authorization grant), and waits until you have logged in there. What is kept is a key that \
counts as you until the session ends; the provider's token is shown to the HPCS server once, and not kept.`;
  static override examples = ['<%= config.bin %> login'];
  static override flags = { config: configFlag };

  async run(): Promise<{ name: string; clientId: string; spiffeId: string; expires: string; file: string }> {
    const { flags } = await this.parse(Login);
    const config = await loadConfig(flags.config);
    const file = await loginFile(config);
    await using services = await openServices(config);
    const { name, clientId, spiffeId, expires } = await logIn(services.server, {
      config,
      file,
      progress: this.progress,
      show: ({ url, code, complete }) => {
        this.progress(`open ${url} and enter the code ${code}`);
        if (complete !== undefined) this.progress(`or open ${complete} and check that it shows the code ${code}`);
      },
      signal: this.signal,
    });
    this.log(`logged in as ${name}: client ${clientId}, until ${expires}\nits key: ${file}`);
    return { name, clientId, spiffeId, expires, file };
  }
}
