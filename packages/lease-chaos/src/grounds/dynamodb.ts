/** DynamoDB: a local server (dynoxide) with its table on the disk. */
import { createTable } from 'lease-dynamodb'
import { startDynamodb } from 'lease-servers'
import { openDynamodb } from '../dynamodb.ts'
import type { Ground, Reach } from '../ground.ts'
import { connectionNemeses } from '../nemeses/connections.ts'
import { dynamodbNemeses } from '../nemeses/dynamodb.ts'
import { kill, pause, restart } from '../nemeses/server.ts'
import { assembled, type GroundOptions, inParts } from './assemble.ts'
import { Ways } from './ways.ts'

const TABLE = 'chaos'

export async function openDynamodbGround({ namespace, compiler }: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(compiler))
    const server = stack.use(await startDynamodb({ durable: true }))
    const judge: Reach = { kind: 'dynamodb', url: `dynamodb://127.0.0.1:${server.port}/${TABLE}`, namespace }
    const { client, table } = openDynamodb(judge)
    stack.use({ [Symbol.asyncDispose]: async () => client.destroy() })
    await createTable({ client, table })
    return assembled({
      name: 'dynamodb',
      ways,
      stack,
      judge,
      async reach(worker): Promise<Reach> {
        const { urls, env } = await ways.add(worker, [judge.url])
        return { ...judge, url: urls[0] ?? judge.url, env }
      },
      faults: [
        pause('server-pause', () => server),
        kill('server-kill', () => server),
        restart('server-restart', () => server),
        ...connectionNemeses(() => ways.proxies),
        ...dynamodbNemeses({ client, table, namespace, proxies: () => ways.proxies }),
      ],
    })
  })
}
