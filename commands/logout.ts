import { BaseCommand, configFlag } from '../src/base-command.ts';
import { loadConfig } from '../src/config.ts';
import { loginFile, logOut } from '../src/identity/login.ts';
import { openServices } from '../src/services.ts';

/** Ends a login. */
export default class Logout extends BaseCommand {
  static override summary = 'end the session that login began';
  static override description = 'Its key counts no more, and is removed here. An enrolled key stays.';
  static override examples = ['<%= config.bin %> logout'];
  static override flags = { config: configFlag };

  async run(): Promise<{ name: string | null }> {
    const { flags } = await this.parse(Logout);
    const config = await loadConfig(flags.config);
    await using services = await openServices(config);
    const ended = await logOut(services.server, await loginFile(config), this.signal);
    this.log(ended === undefined ? 'nobody was logged in' : `logged out: ${ended.name}`);
    return { name: ended?.name ?? null };
  }
}
