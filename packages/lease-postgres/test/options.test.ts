import { EventEmitter } from 'node:events'
import { expect } from 'chai'
import { ErrNotValid, type Problem } from 'lease-core'
import {
  collect,
  inTransaction,
  migrate,
  postgresClient,
  PostgresSubstrate,
  type PostgresOptions,
} from 'lease-postgres'
import { Client, Pool, type PoolClient } from 'pg'
import postgres from 'postgres'
import { newCall } from 'lease-scenes'

describe('the options of lease-postgres', () => {
  const pool = new Pool()
  after(() => pool.end())

  const problemsOf = (make: () => unknown): Record<string, string> => {
    try {
      make()
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid)
      return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
    }
    return {}
  }

  it('need a pool and a namespace, and nothing else', async () => {
    await postgresClient({ pool, namespace: 'n' }).close()
    expect(problemsOf(() => postgresClient({} as PostgresOptions))).to.have.keys('pool', 'namespace')
    expect(problemsOf(() => postgresClient(undefined as unknown as PostgresOptions))).to.have.keys('options')
  })

  it('are all checked before anything is said, those of core too', () => {
    const bad = {
      pool: 'postgres://',
      namespace: 'x'.repeat(256),
      schema: '',
      table: 't'.repeat(57),
      notify: 1,
      listen: true,
      clock: {},
      events: {},
      requestTimeout: -1,
      Namespace: 'typo',
    }
    expect(problemsOf(() => postgresClient(bad as unknown as PostgresOptions))).to.have.keys(Object.keys(bad))
    const { events: _events, requestTimeout: _requestTimeout, ...own } = bad
    expect(problemsOf(() => new PostgresSubstrate(own as unknown as PostgresOptions))).to.have.keys(Object.keys(own))
  })

  it('take a namespace of any characters but NUL', () => {
    for (const namespace of ['a.b#c$', `it's "n"`, 'ü 🐘']) postgresClient({ pool, namespace })
    for (const namespace of ['', 'a\0', '\ud800', 5 as unknown as string]) {
      expect(problemsOf(() => postgresClient({ pool, namespace }))).to.have.keys('namespace')
    }
  })

  it('must say how to listen when the pool does not show how it connects', () => {
    const plain = { connect: () => pool.connect() }
    expect(problemsOf(() => postgresClient({ pool: plain, namespace: 'n' }))).to.have.keys('listen')
    postgresClient({ pool: plain, namespace: 'n', listen: false })
  })

  it('take no connection as a pool, nor anything else, also as an argument', async () => {
    const onLoan = { connect: async () => {}, query: async () => ({ rows: [] }), release: () => {} }
    const wrong: unknown[] = [new Client(), onLoan, undefined, null, 'postgres://', new Map(), {}]
    for (const given of wrong as Pool[]) {
      const options = { pool: given, namespace: 'n', listen: () => new Client() }
      expect(problemsOf(() => postgresClient(options))).to.have.keys('pool')
      expect(problemsOf(() => new PostgresSubstrate(options))).to.have.keys('pool')
      for (const answer of [migrate(given), collect(given, { namespace: 'n', retention: 1 })]) {
        const error: unknown = await answer.catch((reason: unknown) => reason)
        expect(error).to.be.instanceOf(ErrNotValid)
        expect((error as ErrNotValid).problems.map(({ argument }) => argument)).to.deep.equal(['pool'])
      }
    }
  })

  it('take no sql of postgres.js to listen, for it makes no connection', () => {
    const sql = postgres('postgres://me:secret@127.0.0.1:1/db') // connects to nothing
    const options = { pool, namespace: 'n', listen: sql } as unknown as PostgresOptions
    expect(problemsOf(() => postgresClient(options))).to.deep.equal({
      listen:
        'must be a function that makes a connection of postgres.js, and not an sql itself: () => postgres(url, { max: 1 })',
    })
  })

  it('take a pool at its word: what it gives must be a connection on loan', async () => {
    const gifts: unknown[] = [undefined, null, {}, { query: async () => ({ rows: [] }) }, new Client()]
    for (const gift of gifts) {
      for (const connect of [async () => gift as PoolClient, (() => gift) as () => Promise<PoolClient>]) {
        const given = Object.assign(new EventEmitter(), { connect })
        const substrate = new PostgresSubstrate({ pool: given, namespace: 'n', listen: false })
        given.emit('connect', gift)
        const error: unknown = await substrate.time(newCall()).catch((reason: unknown) => reason)
        expect(error).to.be.instanceOf(ErrNotValid)
        expect((error as ErrNotValid).message).to.match(/^pool must be a pool, whose connect/)
      }
    }
  })

  it('of inTransaction: a pool of pg, and a body. With postgres.js the line to write is named', async () => {
    const problemsIn = async (given: unknown, body: unknown): Promise<readonly Problem[]> => {
      const error: unknown = await inTransaction(given as Pool, body as never).catch((reason: unknown) => reason)
      expect(error).to.be.instanceOf(ErrNotValid)
      return (error as ErrNotValid).problems
    }
    const open = (): postgres.Sql => postgres('postgres://me:secret@127.0.0.1:1/db')
    for (const given of [open, open()]) {
      const [problem, ...others] = await problemsIn(given, async () => {})
      expect(problem?.argument).to.equal('pool')
      expect(problem?.rule).to.contain('sql.begin(async (tx) => {')
      expect(others).to.deep.equal([])
    }
    for (const given of [undefined, {}, 'postgres://', new Client()]) {
      expect((await problemsIn(given, undefined)).map(({ argument }) => argument)).to.deep.equal(['pool', 'body'])
    }
  })

  it('of collect are checked together', async () => {
    const bad = { namespace: '', retention: 0, table: '', typo: 1 }
    const error: unknown = await collect(pool, bad).catch((reason: unknown) => reason)
    expect(error).to.be.instanceOf(ErrNotValid)
    expect((error as ErrNotValid).problems.map(({ argument }) => argument)).to.have.members(Object.keys(bad))
  })
})
