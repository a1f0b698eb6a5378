/**
 * Where things are. All keys of a namespace carry one hash tag: in a Cluster they live in one slot, as scripts need it. From the
 * first key that they are given scripts make the others, which docs/substrates/redis.md lists.
 */
export class Keys {
  /** Set: the names that were claimed and not vacated since; some of them may have lapsed. */
  readonly index: string
  /** String: the highest fencing token given out so far. Kept for ever. */
  readonly tokens: string
  /** Hash: lease → JSON array of the entities that pin it. */
  readonly pins: string
  /** The channel of those that watch the whole namespace (`listener.ts`). */
  readonly channel: string
  readonly #lease: string
  readonly #driverPrefix: string

  /**
   * @param driverPrefix what the driver puts in front of every key, but not of a channel (`keyPrefix` in ioredis)
   * @param database a server has one set of channels for all of its databases
   */
  constructor(prefix: string, namespace: string, driverPrefix: string, database: number = 0) {
    const base = `${prefix}:{${namespace}}:`
    this.index = `${base}i`
    this.tokens = `${base}t`
    this.pins = `${base}p`
    this.channel = `${driverPrefix}${base}c${database === 0 ? '' : `:${database}`}`
    this.#lease = `${base}l:`
    this.#driverPrefix = driverPrefix
  }

  /** Where this client is notified; without one, that of those who watch the whole namespace. */
  channelOf(client: string | undefined): string {
    return client === undefined ? this.channel : `${this.channel}:${client}`
  }

  /** String: the term that stands (`script.ts`). Absent: vacant. */
  lease(name: string): string {
    return this.#lease + name
  }

  /** The same, as the server sees it. */
  fullLease(name: string): string {
    return this.#driverPrefix + this.#lease + name
  }
}
