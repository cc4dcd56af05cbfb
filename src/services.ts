import type { Config } from './config.ts';
import { HpcsServer } from './hpcs.ts';
import { readCa } from './http.ts';
import { Vault } from './vault.ts';

/** The two services that a client talks to over HTTP, as configured. */
export interface Services extends AsyncDisposable {
  server: HpcsServer;
  vault: Vault;
  /** Audience of the tokens shown to each: distinct, so that one cannot replay a token to the other. */
  audiences: { hpcsServer: string; vault: string };
}

/** Opens clients of the HPCS server and the vault. Nothing is sent yet. */
export async function openServices(config: Config): Promise<Services> {
  const allowInsecureHttp = config.client['allow-insecure-http'];
  const { url, audience, 'ca-file': caFile } = config['hpcs-server'];
  await using cleanup = new AsyncDisposableStack();
  const server = cleanup.use(new HpcsServer({ url, ca: await readCa(caFile), allowInsecureHttp }));
  const { url: vaultUrl, namespace, 'ca-file': vaultCa } = config.vault;
  const vault = cleanup.use(new Vault({ url: vaultUrl, ca: await readCa(vaultCa), namespace, allowInsecureHttp }));
  const owned = cleanup.move();
  return {
    server,
    vault,
    audiences: { hpcsServer: audience, vault: config.vault.audience },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
