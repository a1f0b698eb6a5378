/** The accounts in etcd, beside the leases, under one prefix. */
import { Etcd3, type IOperation } from 'etcd3'
import type { Client, Token } from 'lease-core'
import { etcdClient, EtcdGuard, failFast } from 'lease-etcd'
import { startEtcd } from 'lease-servers'
import type { Entry } from './books.ts'
import type { Balances, LedgerOffice, Posting, Site, Venue, Write } from './ledger.ts'

export const etcd: Venue = {
  name: 'etcd',
  variable: 'ETCD_ENDPOINTS',
  title: 'etcd',
  apart: 'keys',
  async start() {
    const server = await startEtcd()
    return {
      url: server.endpoints.join(),
      description: `etcd ${server.version} started for this demo at ${server.endpoints.join()}`,
      [Symbol.asyncDispose]: async () => server[Symbol.asyncDispose](),
    }
  },
  officeAt: (site) => new EtcdLedger(site),
}

class EtcdLedger implements LedgerOffice {
  readonly client: Client
  readonly #etcd: Etcd3
  /** What all keys begin with. */
  readonly #root: string

  constructor({ url, scope }: Site) {
    this.#etcd = new Etcd3({ hosts: url.split(',').map((endpoint) => endpoint.trim()), ...failFast() })
    this.#root = `${scope}/`
    this.client = etcdClient({ etcd: this.#etcd, namespace: 'accounts', prefix: `${this.#root}lease/` })
  }

  async balances(accounts: readonly string[]): Promise<Balances> {
    const balances = accounts.map(async (account) => {
      return [account, Number(await this.#etcd.get(this.#balance(account)))] as const
    })
    return Object.fromEntries(await Promise.all(balances))
  }

  readonly write: Write = async (postings) => {
    await this.#etcd
      .if(this.#balance(postings[0]?.account ?? ''), 'Version', '>', 0) // the account is there: always
      .then(...this.#putting(postings))
      .commit()
  }

  async guard(tokens: readonly Token[]): Promise<Write> {
    const guard = new EtcdGuard()
    for (const token of tokens) await token.check(guard)
    return async (postings) => {
      const result = await guard
        .if(this.#etcd)
        .then(...this.#putting(postings))
        .commit()
      guard.assertHeld(result)
    }
  }

  async hasEntry(entry: Pick<Entry, 'account' | 'fencingToken'>): Promise<boolean> {
    return this.#etcd.get(this.#entry(entry)).exists()
  }

  async open(opening: Balances): Promise<void> {
    for (const [account, money] of Object.entries(opening)) await this.#etcd.put(this.#balance(account)).value(money)
  }

  async entries(): Promise<readonly Entry[]> {
    const written = await this.#etcd.getAll().prefix(`${this.#root}entry/`).sort('Create', 'Ascend').strings()
    return Object.values(written).map((json) => {
      const entry = JSON.parse(json) as Omit<Entry, 'fencingToken'> & { fencingToken: string }
      return { ...entry, fencingToken: BigInt(entry.fencingToken) }
    })
  }

  async drop(): Promise<void> {
    await this.#etcd.delete().prefix(this.#root)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
    this.#etcd.close()
  }

  #putting(postings: readonly Posting[]): IOperation[] {
    return postings.flatMap(({ balance, ...entry }) => {
      const token = String(entry.fencingToken)
      return [
        this.#etcd.put(this.#balance(entry.account)).value(balance),
        this.#etcd.put(this.#entry(entry)).value(JSON.stringify({ ...entry, fencingToken: token })),
      ]
    })
  }

  /** One for each term. */
  #entry({ account, fencingToken }: Pick<Entry, 'account' | 'fencingToken'>): string {
    return `${this.#root}entry/${account}/${fencingToken}`
  }

  #balance(account: string): string {
    return `${this.#root}balance/${account}`
  }
}
