/** The stores of a race: the judge opens one, and every worker connects to it (`connections.ts`). */
import { migrate } from 'lease-postgres'
import {
  type DynamodbTarget,
  dynamodbTarget,
  etcdTargets,
  freshDatabase,
  isMatrix,
  type PostgresTarget,
  postgresTargets,
  redisTargets,
} from 'lease-servers'
import { dynamodbParts, loadStore, openPool, type StoreAddress } from './connections.ts'

/** A store that a race may use. */
export interface RaceStore {
  /** For titles. */
  readonly name: string
  readonly kind: StoreAddress['kind']
  open(namespace: string): Promise<OpenStore>
}

export interface OpenStore {
  readonly address: StoreAddress
  close(): Promise<void>
}

/**
 * What a race runs on in the matrix. `each`: one server of each kind. `sorts`: and a Redis Cluster. `all`: every server, and no cluster.
 * Call it while the test file is loaded.
 *
 * @param few the kinds on which the test command runs the race, on one server each: every process costs half a second. DynamoDB only where it
 * is named, also in the matrix. @default all but DynamoDB
 */
export function raceStores(
  which: 'each' | 'sorts' | 'all',
  few: readonly StoreAddress['kind'][] = ['redis', 'postgres', 'etcd'],
): readonly RaceStore[] {
  const isWanted = (kind: StoreAddress['kind']): boolean => isMatrix() || few.includes(kind)
  const most = which === 'all' && isMatrix() ? undefined : 1
  return [
    ...(isWanted('redis') ? redisTargets('server') : []).map((target) =>
      shared(target.name, 'redis', () => target.url),
    ),
    ...(which === 'sorts' && isMatrix() ? redisTargets('cluster') : []).map((target) =>
      shared(target.name, 'redis', () => target.nodes.map(({ host, port }) => `redis://${host}:${port}`).join(',')),
    ),
    ...(isWanted('postgres') ? postgresTargets().slice(0, most) : []).map((target) => ({
      name: target.name,
      kind: 'postgres' as const,
      open: (namespace: string) => openPostgres(target, namespace),
    })),
    ...(isWanted('etcd') ? etcdTargets(most) : []).map((target) =>
      shared(target.name, 'etcd', () => target.endpoints.join(',')),
    ),
    ...(few.includes('dynamodb') ? [dynamodbTarget()] : []).map((target) => ({
      name: target.name,
      kind: 'dynamodb' as const,
      open: (namespace: string) => openDynamodb(target, namespace),
    })),
  ]
}

function shared(name: string, kind: StoreAddress['kind'], url: () => string): RaceStore {
  const open = async (namespace: string): Promise<OpenStore> => ({
    address: { kind, url: url(), namespace },
    close: async () => {},
  })
  return { name, kind, open }
}

/** A table that all races of a run share. */
const TABLE = 'races'

async function openDynamodb({ endpoint }: DynamodbTarget, namespace: string): Promise<OpenStore> {
  await loadStore('dynamodb')
  const { createTable, openDynamodb: connect } = dynamodbParts()
  const address: StoreAddress = {
    kind: 'dynamodb',
    url: `${endpoint.replace('http:', 'dynamodb:')}/${TABLE}`,
    namespace,
  }
  const { client, table } = connect(address)
  await createTable({ client, table })
  client.destroy()
  return { address, close: async () => {} }
}

async function openPostgres(target: PostgresTarget, namespace: string): Promise<OpenStore> {
  const database = await freshDatabase(target)
  const address: StoreAddress = { kind: 'postgres', url: database.url, namespace }
  const pool = openPool(address, 1)
  await migrate(pool)
  await pool.end()
  return { address, close: () => database.drop() }
}
