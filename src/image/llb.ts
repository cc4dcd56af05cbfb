/**
 * A build that does nothing but take an image, and has its file system sent to the client's session.
 *
 * @see moby/buildkit, solver/pb/ops.proto (definitions), api/services/control/control.proto (Solve), docs/dev/dockerfile-llb.md
 */
import { createHash } from 'node:crypto';
import { messageCoder, type Messages } from '../protobuf.ts';

/** An image as a build names it. */
export interface NamedImage {
  /** With registry and tag: `docker.io/library/debian:bookworm`. */
  readonly name: string;
  /** `os/architecture[/variant]`. */
  readonly platform: string;
}

const messages: Messages = {
  Op: {
    fields: {
      inputs: { rule: 'repeated', type: 'Input', id: 1 },
      source: { type: 'SourceOp', id: 3 },
      platform: { type: 'Platform', id: 10 },
    },
  },
  Input: { fields: { digest: { type: 'string', id: 1 }, index: { type: 'int64', id: 2 } } },
  SourceOp: { fields: { identifier: { type: 'string', id: 1 }, attrs: { keyType: 'string', type: 'string', id: 2 } } },
  Platform: {
    fields: { Architecture: { type: 'string', id: 1 }, OS: { type: 'string', id: 2 }, Variant: { type: 'string', id: 3 } },
  },
  Definition: { fields: { def: { rule: 'repeated', type: 'bytes', id: 1 } } },
  SolveRequest: {
    fields: {
      Ref: { type: 'string', id: 1 },
      Definition: { type: 'Definition', id: 2 },
      Exporter: { type: 'string', id: 3 },
      Session: { type: 'string', id: 5 },
      Internal: { type: 'bool', id: 11 },
    },
  },
};
const operation = messageCoder<object>(messages, 'Op');
const request = messageCoder<object>(messages, 'SolveRequest');

/**
 * The request to `Control.Solve`.
 *
 * @param session id of the session that takes the files; the build has the same
 */
export function solveRequest({ name, platform }: NamedImage, session: string): Buffer {
  const [OS, Architecture, Variant = ''] = platform.split('/');
  const source = operation.encode({
    // The image of that name that the engine has; should it have none by now, it asks the registry. What two builds do at the same time is
    // done once if it is the same, also where the name has changed its image in between: so no two are the same.
    source: { identifier: `docker-image://${name}`, attrs: { 'image.resolvemode': 'local', 'hpcs.session': session } },
    platform: { OS, Architecture, Variant },
  });
  const digest = `sha256:${createHash('sha256').update(source).digest('hex')}`;
  const result = operation.encode({ inputs: [{ digest, index: 0 }] });
  return request.encode({
    Ref: session,
    Definition: { def: [source, result] },
    Exporter: 'local',
    Session: session,
    Internal: true,
  });
}
