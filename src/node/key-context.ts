/** What a record is for. */
export type RecordRole = 'image' | 'data' | 'job';

/** What a job needs to get its keys, beside the plan. */
export interface KeyContext {
  /** The scheduler's job id. */
  jobId: string;
  /** Name of this node, as it was granted. */
  node: string;
  /** Path of spire-agent in the checked tool kit. */
  agentProgram: string;
  /** Private directory of this job on the node. */
  directory: string;
  signal: AbortSignal;
  progress: (line: string) => void;
}
