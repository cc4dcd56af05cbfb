import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import type { Proof } from '../identity/proof.ts';
import type { Secret } from '../secret.ts';
import type { Admit, ClientRecord, Clients } from './clients.ts';
import type { Issuers } from './issuers.ts';
import type { AuditEvent } from './jobs.ts';
import { eachOf, hourOf, type Store } from './store.ts';

const loginRecord = z.strictObject({
  /** Thumbprint of the key that the token came with. */
  key: z.string(),
  /** It came with a second key. */
  revoked: z.boolean(),
});

/** A client that logged in. */
export interface LoggedIn {
  client: ClientRecord;
  /** Alias of the issuer. */
  issuer: string;
  /** When its key counts no more. */
  expires: Date;
}

/**
 * Logins with tokens of OpenID Connect issuers. A token is shown once, together with a proof of possession of a key, and makes that
 * key one of its client's for a while: what is shown from then on are proofs, never the token again.
 */
export class Logins {
  readonly #store: Store;
  readonly #clients: Clients;
  readonly #issuers: Issuers;
  readonly #audit: AuditEvent;

  constructor(store: Store, clients: Clients, issuers: Issuers, audit: AuditEvent) {
    this.#store = store;
    this.#clients = clients;
    this.#issuers = issuers;
    this.#audit = audit;
  }

  /** The trusted issuers. */
  get issuers(): Issuers {
    return this.#issuers;
  }

  /**
   * Makes the key of a proof one of the client whom a token is for. The same token and key may come again while the token lives,
   * since an answer can be lost; a second key ends what the first began, since the token is in two hands.
   *
   * @param admit asked whether whom the token is for is served, before anything is written down
   * @throws HpcsError `identity`, as {@link Issuers.verify}; `forbidden` for a token that came with another key; `key-ended` for a key that was
   * logged out or revoked, `conflict` for a key of another client
   */
  async login(token: Secret, proof: Proof, admit: Admit = async () => undefined): Promise<LoggedIn> {
    const { thumbprint } = proof;
    const admitted = await this.#issuers.verify(token.reveal(), thumbprint);
    await admit(admitted.principal.identity);
    // Before the token is bound to it: with another key it still is of use.
    await this.#clients.assertNotEnded(thumbprint);
    await this.#clients.once(proof);
    await this.#use(pathOf(admitted), thumbprint);
    const expires = new Date(Date.now() + admitted.session * 1000);
    const client = await this.#clients.admit(admitted.principal, thumbprint, { expires, token: admitted.expires });
    // A second key may have come while this one was admitted, and found nothing to end.
    const used = await this.#store.read(pathOf(admitted), loginRecord);
    if (used === undefined || used.value.revoked) {
      await this.#clients.dismiss(thumbprint);
      throw usedTwice();
    }
    return { client, issuer: admitted.issuer, expires };
  }

  /** Forgets tokens and keys whose time is over. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    // Tokens are taken for a while after their end.
    const oldest = hourOf(new Date()) - 1;
    const hours = await this.#store.directories('logins');
    const forget = async (hour: string): Promise<void> =>
      eachOf(await this.#store.list(`logins/${hour}`), (name) => this.#store.remove(`logins/${hour}/${name}`));
    await eachOf(
      hours.filter((hour) => Number(hour) < oldest),
      forget,
      1,
    );
    await this.#clients.tidySessions();
  }

  async #use(path: string, thumbprint: string): Promise<void> {
    if (await this.#store.write(path, { key: thumbprint, revoked: false }, 0)) return;
    for (;;) {
      const found = await this.#store.read(path, loginRecord);
      if (found === undefined) throw usedTwice();
      const { value, version } = found;
      if (value.key === thumbprint && !value.revoked) return;
      // First of all, so that the first key cannot log in again in between.
      if (!value.revoked && !(await this.#store.write(path, { ...value, revoked: true }, version))) continue;
      await this.#clients.dismiss(value.key);
      this.#audit('error', 'login token came with a second key', { first: value.key, second: thumbprint });
      throw usedTwice();
    }
  }
}

function pathOf({ digest, expires }: { digest: string; expires: Date }): string {
  return `logins/${hourOf(expires)}/${digest}`;
}

function usedTwice(): HpcsError {
  return new HpcsError(
    'identity',
    'forbidden',
    'the token was used with another key already, and what that key could do has ended: somebody else may have had it',
  );
}
