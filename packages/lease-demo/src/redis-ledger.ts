/** The accounts in Redis, beside the leases: all keys carry the hash tag of the leases' namespace. */
import { Redis } from 'ioredis'
import type { Client, Token } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'
import { startRedis } from 'lease-servers'
import type { Entry } from './books.ts'
import type { Balances, LedgerOffice, Posting, Site, Venue, Write } from './ledger.ts'

export const redis: Venue = {
  name: 'Redis',
  variable: 'REDIS_URL',
  title: 'Redis',
  apart: 'keys',
  async start() {
    const server = await startRedis()
    return {
      url: server.url,
      description: `Redis ${server.version} started for this demo on port ${server.port}`,
      [Symbol.asyncDispose]: async () => server[Symbol.asyncDispose](),
    }
  },
  officeAt: (site) => new RedisLedger(site),
}

/** KEYS: balances, entries, which entries there are. ARGV: account, balance, entry and term of each posting. */
const post = `
for i = 1, #ARGV, 4 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  if redis.call('SADD', KEYS[3], ARGV[i + 3]) == 1 then redis.call('RPUSH', KEYS[2], ARGV[i + 2]) end
end`

class RedisLedger implements LedgerOffice {
  readonly client: Client
  readonly #redis: Redis
  readonly #tag: string
  /** Hash: account → balance. */
  readonly #balances: string
  /** List: entries as JSON. */
  readonly #entries: string
  /** Set: which terms have written their entry. The driver itself repeats a command whose connection broke. */
  readonly #terms: string
  /** What was wrong with the connection, which its commands do not tell. */
  #trouble: Error | undefined

  constructor({ url, scope }: Site) {
    this.#redis = new Redis(url, { lazyConnect: true, connectTimeout: 30_000, maxRetriesPerRequest: 3 })
    this.#redis.on('error', (error) => (this.#trouble = error))
    this.#tag = `{${scope}}`
    this.#balances = `${this.#tag}:balances`
    this.#entries = `${this.#tag}:entries`
    this.#terms = `${this.#tag}:terms`
    this.client = redisClient({ redis: this.#redis, namespace: scope })
  }

  async balances(accounts: readonly string[]): Promise<Balances> {
    const balances = await this.#redis.hmget(this.#balances, ...accounts)
    return Object.fromEntries(accounts.map((account, index) => [account, Number(balances[index])]))
  }

  readonly write: Write = async (postings) => {
    await this.#redis.eval(post, this.#keys.length, ...this.#keys, ...argumentsOf(postings))
  }

  async guard(tokens: readonly Token[]): Promise<Write> {
    const guard = new RedisGuard()
    for (const token of tokens) await token.check(guard)
    return async (postings) => {
      await guard.run(this.#redis, post, this.#keys, argumentsOf(postings))
    }
  }

  async hasEntry(entry: Pick<Entry, 'account' | 'fencingToken'>): Promise<boolean> {
    return (await this.#redis.sismember(this.#terms, termOf(entry))) === 1
  }

  async open(opening: Balances): Promise<void> {
    try {
      await this.#redis.connect()
    } catch (error) {
      throw this.#trouble ?? error
    }
    await this.#redis.hset(this.#balances, opening)
  }

  async entries(): Promise<readonly Entry[]> {
    return (await this.#redis.lrange(this.#entries, 0, -1)).map((json) => {
      const entry = JSON.parse(json) as Omit<Entry, 'fencingToken'> & { fencingToken: string }
      return { ...entry, fencingToken: BigInt(entry.fencingToken) }
    })
  }

  async drop(): Promise<void> {
    for await (const keys of this.#redis.scanStream({ match: `*${this.#tag}*`, count: 1000 })) {
      if ((keys as string[]).length > 0) await this.#redis.unlink(keys as string[])
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
    this.#redis.disconnect()
  }

  get #keys(): string[] {
    return [this.#balances, this.#entries, this.#terms]
  }
}

function argumentsOf(postings: readonly Posting[]): (string | number)[] {
  return postings.flatMap(({ balance, ...entry }) => {
    const json = JSON.stringify({ ...entry, fencingToken: String(entry.fencingToken) })
    return [entry.account, balance, json, termOf(entry)]
  })
}

function termOf({ account, fencingToken }: Pick<Entry, 'account' | 'fencingToken'>): string {
  return `${account} ${fencingToken}`
}
