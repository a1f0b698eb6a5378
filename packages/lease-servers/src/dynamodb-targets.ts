/** Which DynamoDB the tests run against: `DYNAMODB_ENDPOINT` names the one and only; otherwise a local one is started. */
import { startDynamodb } from './dynamodb.ts'
import { postJson } from './etcd.ts'
import { ANSWER_MS, nothing, type Opened, shared, unreachable } from './targets.ts'

/**
 * What to test against. `name` is known at once; the endpoint from the first `before` hook on. Test files share it and no table is removed,
 * so tables and namespaces need names of their own.
 */
export interface DynamodbTarget {
  /** For titles: `dynamodb`. */
  readonly name: string
  readonly endpoint: string
}

/** What this run tests against. Call it while the test file is loaded, outside of any hook or test: that call makes the global setup start it. */
export function dynamodbTarget(): DynamodbTarget {
  const outside = process.env['DYNAMODB_ENDPOINT']
  const name = outside ? 'dynamodb (DYNAMODB_ENDPOINT)' : 'dynamodb'
  const server = shared<{ endpoint: string }>(name, async () => (outside ? givenDynamodb(outside) : started()))
  server.ask()
  return {
    name,
    get endpoint() {
      return server.reached.endpoint
    },
  }
}

async function started(): Promise<Opened<{ endpoint: string }>> {
  const server = await startDynamodb()
  return { reached: { endpoint: server.endpoint }, stop: async () => server.stop() }
}

/** The server that DYNAMODB_ENDPOINT names. @throws with a message of one line when it does not answer within `withinMs` */
export async function givenDynamodb(
  endpoint: string,
  withinMs: number = ANSWER_MS,
): Promise<Opened<{ endpoint: string }>> {
  try {
    await postJson(endpoint, withinMs) // any answer will do: without a signature it is an error
    return { reached: { endpoint }, stop: nothing }
  } catch (cause) {
    throw unreachable('DYNAMODB_ENDPOINT', cause)
  }
}
