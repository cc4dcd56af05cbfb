import { randomUUID } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { HpcsError } from '../errors.ts';
import { formatSpiffeId, parseSpiffeId } from '../identity/spiffe-id.ts';
import { ownIdentity, type ServerConfig } from './config.ts';
import { spireReach } from './reach.ts';
import { formatSelector, parseSelector, Spire } from './spire.ts';
import { missing, right, unknown, wrong, type Finding, type Step } from './steps.ts';

/** What the server needs in SPIRE: an identity of its own, and a policy by which SPIRE confines it. */
export function spireSteps(config: ServerConfig): Step[] {
  return [entryStep(config), confinementStep(config)];
}

function entryStep(config: ServerConfig): Step {
  const { 'admin-socket': socket, 'agent-id': agent, selectors } = config.bootstrap;
  const own = ownIdentity(config);
  const what = `the entry of ${own} in SPIRE`;
  if (socket === undefined || agent === undefined || selectors.length === 0)
    return { what, look: async () => unknown('section [bootstrap] does not name admin-socket, agent-id and selectors') };
  const spiffeId = parseSpiffeId(own);
  const entry = { spiffeId, parentId: parseSpiffeId(agent), selectors: selectors.map(parseSelector), jwtSvidTtl: 300 };
  const key = (one: Pick<typeof entry, 'parentId' | 'selectors'>): string =>
    [formatSpiffeId(one.parentId), ...one.selectors.map(formatSelector).toSorted()].join(' ');
  return {
    what,
    look: async () => {
      await stat(socket).catch((cause: unknown) => {
        throw new HpcsError('local', 'no-socket', `there is no socket ${socket}`, { cause, suggestion: 'run this beside SPIRE' });
      });
      using spire = new Spire(socket);
      const found = await spire.listEntries(spiffeId);
      if (found.some(({ admin, downstream }) => admin || downstream))
        return wrong('one of its entries has rights in SPIRE (admin or downstream): delete it');
      const others = found.filter((one) => key(one) !== key(entry));
      if (others.length > 0) return wrong(`others have that identity too: ${others.map(key).join('; ')}: delete their entries`);
      return found.length > 0 ? right : missing('it was not there');
    },
    make: async () => {
      using spire = new Spire(socket);
      // Not an id of those that the server itself may delete.
      await spire.createEntries([{ ...entry, id: `server.${randomUUID()}` }]);
    },
  };
}

// Both are harmless: tokens that live a second, and go nowhere.
function confinementStep(config: ServerConfig): Step {
  return {
    what: 'the confinement of this server by SPIRE',
    look: async (): Promise<Finding> => {
      const reach = spireReach(config);
      if ('socket' in reach)
        return wrong('socket-path is configured, and who is on that socket administers SPIRE: leave it out (docs/deployment.md)');
      using spire = new Spire(reach);
      const own = parseSpiffeId(ownIdentity(config));
      const [audience = ''] = config.vault.audience;
      const may = async (path: string): Promise<boolean> => {
        try {
          using _token = await spire.mintJwtSvid({ ...own, path }, [audience], 1);
          return true;
        } catch (error) {
          if (error instanceof HpcsError && error.code === 'spire-refused') return false;
          throw error;
        }
      };
      try {
        if (await may(own.path)) return wrong('it may make itself anybody: give SPIRE the policy of hpcs server spire-policy'); // prettier-ignore
        return (await may('/c/000000000/workload')) ? right : wrong('SPIRE does not let it do its work: give SPIRE the policy of hpcs server spire-policy'); // prettier-ignore
      } catch (error) {
        if (error instanceof HpcsError && error.code === 'identity-unavailable') return unknown('this process is not given the identity of the server, or not yet'); // prettier-ignore
        throw error;
      }
    },
  };
}
