/** A Client of your own: it counts its calls by method, for a dashboard. */
import type { Client } from 'lease-core'

export class CountingClient implements Client {
  /** Calls so far, by method. */
  readonly calls = new Map<string, number>()
  /** Without it, a manager refuses every claim of a share. */
  readonly counted: Client['counted']
  /** Without it, managers receive hints about every lease in the namespace. */
  readonly unwatch: Client['unwatch']
  /** Without it, operators do not see how many wait. */
  readonly waiting: Client['waiting']
  readonly #client: Client

  constructor(client: Client) {
    this.#client = client
    this.unwatch = client.unwatch?.bind(client)
    this.waiting = client.waiting?.bind(client)
    this.counted = client.counted
  }

  claimLease: Client['claimLease'] = (...args) => this.#counted('claimLease').claimLease(...args)
  extendLease: Client['extendLease'] = (...args) => this.#counted('extendLease').extendLease(...args)
  expireLease: Client['expireLease'] = (...args) => this.#counted('expireLease').expireLease(...args)
  releaseLease: Client['releaseLease'] = (...args) => this.#counted('releaseLease').releaseLease(...args)
  pinLease: Client['pinLease'] = (...args) => this.#counted('pinLease').pinLease(...args)
  unpinLease: Client['unpinLease'] = (...args) => this.#counted('unpinLease').unpinLease(...args)
  pinned: Client['pinned'] = () => this.#counted('pinned').pinned()
  leases: Client['leases'] = () => this.#client.leases()
  refresh: Client['refresh'] = (...args) => this.#counted('refresh').refresh(...args)
  subscribe: Client['subscribe'] = (...args) => this.#client.subscribe(...args)
  leaveQueue: NonNullable<Client['leaveQueue']> = (...args) => this.#client.leaveQueue?.(...args)
  close: Client['close'] = () => this.#client.close()

  #counted(method: string): Client {
    this.calls.set(method, (this.calls.get(method) ?? 0) + 1)
    return this.#client
  }
}
