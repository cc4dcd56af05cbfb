import { fromJSON, type MessageTypeDefinition } from '@grpc/proto-loader';

/** Type of one field of a message: protobuf's scalar or message type and its number. */
export interface FieldDescriptor {
  type: string;
  id: number;
  rule?: 'repeated';
  keyType?: string;
}

/** Messages as TypeScript objects, so that no `.proto` file has to travel with the program. */
export type Messages = Readonly<Record<string, { fields: Record<string, FieldDescriptor> }>>;

/** Between the messages of one type and their bytes. */
export interface MessageCoder<Message extends object> {
  encode(message: Partial<Message>): Buffer;
  /** Fields that the bytes lack have the defaults of proto3; 64-bit integers are decimal strings. @throws Error for other bytes */
  decode(bytes: Buffer): Message;
}

/**
 * The coder of one of some messages.
 *
 * @see https://protobuf.dev/programming-guides/encoding/
 */
export function messageCoder<Message extends object>(messages: Messages, name: string): MessageCoder<Message> {
  const nested = { messages: { nested: messages } };
  const definitions = fromJSON({ nested }, { longs: String, defaults: true, arrays: true, objects: true });
  const definition = definitions[`messages.${name}`] as MessageTypeDefinition<object, object> | undefined;
  if (definition === undefined) throw new RangeError(`no message ${name}`);
  return { encode: (message) => definition.serialize(message), decode: (bytes) => definition.deserialize(bytes) as Message };
}
