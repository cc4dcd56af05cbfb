import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

/**
 * What an operator watches, in the text format of Prometheus. No name, id or address of a caller is in it, and the number of
 * series does not depend on what callers send.
 *
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 */
export class Metrics {
  readonly registry = new Registry();
  readonly #registers = [this.registry];

  /** Requests that are over, also those whose callers were gone before the answer. `call` is a route of the API, or `unknown`. */
  readonly requests = new Counter({
    name: 'hpcs_requests_total',
    help: 'Requests that are over, by call and the status that came of them',
    labelNames: ['call', 'status'],
    registers: this.#registers,
  });
  readonly seconds = new Histogram({
    name: 'hpcs_request_seconds',
    help: 'Time from the head of a request until it is over',
    labelNames: ['call'],
    buckets: [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100],
    registers: this.#registers,
  });
  /** Refusals and failures by their codes (`forbidden`, `vault-sealed`, …). */
  readonly refusals = new Counter({
    name: 'hpcs_refusals_total',
    help: 'Requests that were refused or failed, by code',
    labelNames: ['code'],
    registers: this.#registers,
  });
  /** Events of the audit log by their level: an `error` is an alarm, such as a ticket that came with a second key. */
  readonly audit = new Counter({
    name: 'hpcs_audit_events_total',
    help: 'Events of jobs in the audit log, by level and what happened',
    labelNames: ['level', 'event'],
    registers: this.#registers,
  });
  /** Lines of the log, those of the audit log among them, that could not be written: a full disk, a reader that is gone. */
  readonly logFailures = new Counter({
    name: 'hpcs_log_failures_total',
    help: 'Lines of the log that could not be written',
    registers: this.#registers,
  });
  readonly connections = new Gauge({
    name: 'hpcs_connections',
    help: 'Connections that are open',
    registers: this.#registers,
  });
  /** Connections ended by this server: `limit` (too many), or the reason of Node's HTTP parser or TLS. */
  readonly dropped = new Counter({
    name: 'hpcs_connections_dropped_total',
    help: 'Connections refused or ended for what their callers did, by reason',
    labelNames: ['reason'],
    registers: this.#registers,
  });
  readonly partUp = new Gauge({
    name: 'hpcs_part_up',
    help: 'Whether a service behind this server was usable when it was last looked at',
    labelNames: ['part'],
    registers: this.#registers,
  });
  readonly logins = new Counter({
    name: 'hpcs_vault_logins_total',
    help: 'Logins of this server at the vault, by outcome',
    labelNames: ['outcome'],
    registers: this.#registers,
  });
  readonly vaultTokenExpires = new Gauge({
    name: 'hpcs_vault_token_expires_seconds',
    help: "When this server's vault token ends, in seconds since 1970",
    registers: this.#registers,
  });
  readonly certificateExpires = new Gauge({
    name: 'hpcs_certificate_expires_seconds',
    help: "When this server's TLS certificate ends, in seconds since 1970",
    registers: this.#registers,
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry });
  }
}
