import { timingSafeEqual } from 'node:crypto';
import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { jobMac } from './mac.ts';

/** The run of a job that a volume key belongs to. */
export interface JobRun {
  /** The scheduler's job id. */
  id: string;
  restart: number;
}

function mac(authenticationKey: Secret, run: JobRun, password: string): Buffer {
  return jobMac(authenticationKey, `hpcs output volume key 1\n${JSON.stringify([run.id, run.restart])}\n`, password);
}

/**
 * What the job seals to its owner from the start: the password of its output volume, and an HMAC-SHA256 that only the job can have
 * made. Anyone can seal to the result key; without the HMAC a site could put a volume of its own in the place of the job's.
 *
 * @param password 64 hex characters
 * @param authenticationKey of the job, 32 bytes in hex
 */
export function renderVolumeKey(password: Secret, run: JobRun, authenticationKey: Secret): Secret {
  const text = password.reveal();
  return new Secret(`${text} ${mac(authenticationKey, run, text).toString('hex')}\n`);
}

/** The password in what {@link renderVolumeKey} made. @throws HpcsError `integrity` `volume-key-forged` */
export function parseVolumeKey(content: Secret, run: JobRun, authenticationKey: Secret): Secret {
  const [, password, code] = /^([0-9a-f]{64}) ([0-9a-f]{64})\n$/.exec(content.reveal()) ?? [];
  if (
    password !== undefined &&
    code !== undefined &&
    timingSafeEqual(mac(authenticationKey, run, password), Buffer.from(code, 'hex'))
  ) {
    return new Secret(password);
  }
  throw new HpcsError(
    'integrity',
    'volume-key-forged',
    `the key of the output volume was not made by job ${run.id}: its authentication code is wrong`,
    {
      suggestion: 'do not use these results; tell the site, and submit the job again',
    },
  );
}
