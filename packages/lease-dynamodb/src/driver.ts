/** The shape of the driver: only the method that is called. A `DynamoDBClient` of @aws-sdk/client-dynamodb 3 fits as it is. */
import type { AttributeValue } from '@aws-sdk/client-dynamodb'

/** What the substrate needs of a `DynamoDBClient`. */
export interface DynamodbDriver {
  /** @param options.abortSignal ends the request: nobody waits for its answer any more */
  // oxlint-disable-next-line typescript/no-explicit-any -- the SDK's own commands, each with its own answer
  send(command: any, options?: { readonly abortSignal?: AbortSignal }): Promise<any>
}

/** One item of the table, as the driver has it. */
export type Item = Record<string, AttributeValue>
