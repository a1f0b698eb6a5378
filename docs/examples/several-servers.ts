/** More leases than one server carries: each lease is in one of several parts, and each part may be on its own server. */
import { createHash } from 'node:crypto'
import type { Cluster, Redis } from 'ioredis'
import { Manager, type Client } from 'lease-core'
import { redisClient } from 'lease-redis'

/** Every process must give the same parts, in the same order. */
export class SpreadLeases implements AsyncDisposable {
  readonly #parts: readonly { readonly client: Client; readonly manager: Manager }[]

  constructor(clients: readonly Client[]) {
    this.#parts = clients.map((client) => ({ client, manager: new Manager({ client }) }))
  }

  /** The manager of the part of this lease: `leases.managerOf(name).hold(name, …)`. */
  managerOf(lease: string): Manager {
    const part = this.#parts[this.partOf(lease)]
    if (part === undefined) throw new Error('there are no parts')
    return part.manager
  }

  /** The same number in every process and in every release of Node. */
  partOf(lease: string): number {
    return createHash('sha256').update(lease).digest().readUInt32BE() % this.#parts.length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client, manager } of this.#parts) {
      await manager.stop()
      await client.close()
    }
  }
}

/** One part on each server. */
export function onServers(servers: readonly Redis[]): SpreadLeases {
  return new SpreadLeases(servers.map((redis) => redisClient({ redis, namespace: 'billing' })))
}

/** Many parts on one Cluster: each namespace is in one slot, and the slots are spread over all masters. */
export function onCluster(cluster: Redis | Cluster, parts: number): SpreadLeases {
  const namespaces = Array.from({ length: parts }, (_, part) => `billing-${part}`)
  return new SpreadLeases(namespaces.map((namespace) => redisClient({ redis: cluster, namespace })))
}
