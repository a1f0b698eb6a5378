/** One program on five substrates: only the line that makes the client differs. */
import { once } from 'node:events'
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import type { Etcd3 } from 'etcd3'
import type { Cluster, Redis } from 'ioredis'
import { Manager, memoryClient, type Client, type ErrLost, type LeaseError, type MemoryStore } from 'lease-core'
import { dynamodbClient } from 'lease-dynamodb'
import { etcdClient } from 'lease-etcd'
import { postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import type { Pool } from 'pg'

export const inMemory = (store: MemoryStore): Client => memoryClient({ store })
export const onPostgres = (pool: Pool, namespace: string): Client => postgresClient({ pool, namespace })
export const onRedis = (redis: Redis | Cluster, namespace: string): Client => redisClient({ redis, namespace })
export const onEtcd = (etcd: Etcd3, namespace: string): Client => etcdClient({ etcd, namespace })
export const onDynamodb = (client: DynamoDBClient, table: string, namespace: string): Client =>
  dynamodbClient({ client, table, namespace })

/** Ann and Ben each have a client and a manager, as in two processes. */
export async function sameProgram(newClient: () => Client, print: (line: string) => void): Promise<void> {
  const clients = [newClient(), newClient()] as const
  const ann = new Manager({ client: clients[0] })
  const ben = new Manager({ client: clients[1] })

  // Claim, check, work, release.
  await ann.claim('newsletter', 'ann', { seconds: 30 })
  print(`ben claims: ${await codeOf(ben.claim('newsletter', 'ben', { seconds: 30 }))}`)
  const { fencingToken: first } = await ann.token('newsletter', 'ann').check()
  print('ann checks and works')
  await ann.release('newsletter', 'ann')

  // A value travels with the lease; everyone can read it.
  const leader = await ann.hold('leader', 'ann', { duration: { seconds: 30 }, value: 'http://ann' })
  const seen = (await ben.leases()).get('leader')
  print(`ben sees: the leader is ${seen?.holder} at ${seen?.value}`)

  // A waiter is granted the lease when it is released.
  const waiting = ben.hold('leader', 'ben', { duration: { seconds: 30 }, wait: { seconds: 30 } })
  await leader.release()
  const successor = await waiting
  print(`ben leads: the fencing token ${successor.fencingToken > leader.fencingToken ? 'rises' : 'DOES NOT RISE'}`)

  // An operator revokes it, and the signal of its holder aborts.
  await ann.revoke('leader')
  const { code, reason } = await lossOf(successor.signal)
  print(`ben leads no more: ${code}, ${reason}`)

  // A holder stops renewing: after its lease has lapsed, another takes over.
  await ann.claim('newsletter', 'ann', { milliseconds: 400 })
  const heir = await ben.hold('newsletter', 'ben', { duration: { seconds: 30 }, wait: { seconds: 30 } })
  print(`ben takes over: the fencing token ${heir.fencingToken > first ? 'rises' : 'DOES NOT RISE'}`)
  print(`ann checks: ${await codeOf(ann.token('newsletter', 'ann').check())}`)
  await heir.release()
  print(`leases left: ${(await ann.leases()).size}`)

  await Promise.all([ann.stop(), ben.stop()])
  await Promise.all(clients.map((client) => client.close()))
}

/** The code of the error that the work rejects with, or `done`. */
async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'done',
    (error: LeaseError) => error.code,
  )
}

/** Resolves with the reason of the signal when it aborts. */
async function lossOf(signal: AbortSignal): Promise<ErrLost> {
  if (!signal.aborted) await once(signal, 'abort')
  return signal.reason as ErrLost
}
