import { randomBytes } from 'node:crypto';
import type { Conditions, HpcsServer, JobRegistration } from '../../src/hpcs.ts';
import { makeTicket, ticketHash, type Ticket } from '../../src/job/ticket.ts';
import { secretName, type VaultRecord } from '../../src/record.ts';
import { generateKey } from '../../src/seal/keys.ts';
import type { Vault } from '../../src/vault.ts';
import type { Person } from './people.ts';

/** A vault's record, of an artefact that nobody has. */
export function someRecord(changes: Partial<VaultRecord> = {}): Omit<VaultRecord, 'owner'> {
  return {
    artefact: randomBytes(16).toString('hex'),
    kind: 'data',
    format: 'openpgp',
    sha512: 'a'.repeat(128),
    size: 1,
    created: new Date().toISOString(),
    key: `key-${randomBytes(8).toString('hex')}`,
    ...changes,
  };
}

/** A job as its submitter registered it. */
export interface Registered {
  ticket: Ticket;
  hash: string;
  job: string;
  jobSecret: string;
  registration: JobRegistration;
}

/** A new key of a job, as it shows it. */
export async function newKey(): Promise<string> {
  return (await generateKey('age')).publicKey;
}

let jobs = 1_000_000;

/** What people do at the HPCS server, without a site: store, grant, register, redeem. */
export class Submissions {
  readonly #server: HpcsServer;
  readonly #vault: Vault;

  constructor(server: HpcsServer, vault: Vault) {
    this.#server = server;
    this.#vault = vault;
  }

  /** Stores a record as its owner, and grants it. @returns its path */
  async store(
    who: Person,
    content: Omit<VaultRecord, 'owner'>,
    granted: { clients?: string[]; groups?: string[] } & Conditions = {},
  ): Promise<string> {
    const { clients = [], groups = [], ...conditions } = granted;
    const wanted = { secret: secretName('x'), clients, groups, ...conditions };
    const { secretPath } = await this.#server.permit(wanted, who.identity.prove);
    await using session = await this.#vault.login(`client_${who.identity.clientId}`, await who.identity.jwt('vault'));
    await session.writeNew(secretPath, { ...content, owner: who.identity.spiffeId });
    return secretPath;
  }

  /**
   * Registers a job of somebody, on these secrets.
   *
   * @param secrets paths by their roles; of an image with its digest, where the submitter says it
   */
  async register(
    who: Person,
    secrets: Partial<Record<'image' | 'data', string>> = {},
    more: { imageDigest?: string; lifetime?: number; connected?: boolean } = {},
  ): Promise<Registered> {
    const { imageDigest, ...rest } = more;
    const ticket = makeTicket();
    const job = String(jobs++);
    const jobSecret = await this.store(who, someRecord({ kind: 'job', format: 'hmac-sha256' }));
    const artefacts = [
      ...Object.entries(secrets).map(([role, path]) => ({
        role: role as 'image' | 'data',
        secret_path: path,
        ...(role === 'image' && imageDigest !== undefined ? { sha512: imageDigest } : {}),
      })),
      { role: 'job' as const, secret_path: jobSecret },
    ];
    const registration = { job, ticket: ticketHash(ticket), artefacts, ...rest };
    await this.#server.registerJob(registration, who.identity.prove);
    return { ticket, hash: registration.ticket, job, jobSecret, registration };
  }

  /** Shows the ticket of a job, as the job does. */
  redeem({ ticket, job }: Pick<Registered, 'ticket' | 'job'>, key: string): Promise<Uint8Array> {
    return this.#server.redeem({ halves: [ticket.scriptHalf, ticket.fileHalf], job, key });
  }
}
