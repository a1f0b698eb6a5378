import type { Client } from 'lease-core'
import { clientOver } from 'lease-core/adapter'
import { DynamodbSubstrate } from './dynamodb-substrate.ts'
import { parseOptions, type DynamodbOptions } from './options.ts'

/**
 * A client for the leases of one namespace in a table of DynamoDB. Nothing is sent before the first call.
 *
 * @throws ErrNotValid with every problem of the options
 */
export function dynamodbClient(options: DynamodbOptions): Client {
  return clientOver(
    parseOptions(options, { client: true }),
    (own, onWarning) => new DynamodbSubstrate({ ...own, onWarning }),
  )
}
