/**
 * The ways in of docs/substrates/postgres.md, one for each ORM and driver: the table there quotes this file. Each loads its library when it
 * is opened, because some take a second.
 */
import type { EntityManager as MikroManager } from '@mikro-orm/postgresql'
import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import type { Knex } from 'knex'
import type { Transaction } from 'kysely'
import type { Token } from 'lease-core'
import type { SqlGuard } from 'lease-postgres'
import { Pool, type PoolClient } from 'pg'
import type { ITask } from 'pg-promise'
import type { TransactionSql } from 'postgres'
import type { Transaction as SequelizeTransaction } from 'sequelize'
import type { DatabaseTransactionConnection } from 'slonik'
import type { EntityManager } from 'typeorm'
import { Prisma, PrismaStandIn, type PrismaTransaction } from './prisma-stand-in.ts'

/** One ORM or driver, on a database with the table `account`. */
export interface Driver<Tx> {
  /** Runs the body in a transaction, which is rolled back when the body rejects. */
  transact(body: (tx: Tx) => Promise<void>): Promise<void>
  /** The guard as the first statement of the transaction. */
  check(tx: Tx, token: Token): Promise<unknown>
  /** Sets the balance of account 1 by the driver's own means. */
  set(tx: Tx, balance: number): Promise<unknown>
  /** The same in one statement with the guard as a predicate, whose first parameter is $2. Resolves to the number of rows. */
  setGuarded(tx: Tx, balance: number, guard: SqlGuard): Promise<number | bigint | null>
  /** What a hurried reader may pass as a key in the place of `tx`: its client, and other objects with a connection. */
  readonly mistaken: readonly unknown[]
  /** In the place of `tx`: statements that are outside of a transaction. */
  readonly outside?: unknown
  close(): Promise<unknown>
}

export interface WayIn<Tx = never> {
  /** As the table has it. */
  readonly name: string
  /** Whether only the matrix tries it. */
  readonly isMatrixOnly: boolean
  readonly open: (url: string) => Promise<Driver<Tx>>
}

/** What the test command tries: the drivers, and of what is built on them that which loads soonest. */
const TRIED_ALWAYS: readonly string[] = ['`pg`', 'Prisma', 'Knex', 'postgres.js', 'pg-promise']

const way = <Tx>(name: string, open: (url: string) => Promise<Driver<Tx>>): WayIn =>
  ({ name, isMatrixOnly: !TRIED_ALWAYS.includes(name), open }) as unknown as WayIn

async function drizzleAccount() {
  const { integer, pgTable } = await import('drizzle-orm/pg-core')
  return pgTable('account', { id: integer().primaryKey(), balance: integer().notNull() })
}

interface Account {
  id: number
  balance: number
}

export const waysIn: readonly WayIn[] = [
  way<PoolClient>('`pg`', async (url) => {
    const pool = new Pool({ connectionString: url })
    return {
      async transact(body) {
        const tx = await pool.connect()
        tx.on('error', () => {})
        try {
          await tx.query('BEGIN')
          await body(tx)
          await tx.query('COMMIT')
          tx.release()
        } catch (error) {
          tx.release(true) // closing it rolls back
          throw error
        }
      },
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.query('UPDATE account SET balance = $1 WHERE id = 1', [balance]),
      async setGuarded(tx, balance, guard) {
        const text = `UPDATE account SET balance = $1 WHERE id = 1 AND ${guard.text}`
        const { rowCount } = await tx.query(text, [balance, ...guard.values])
        return rowCount
      },
      mistaken: [],
      outside: pool,
      close: () => pool.end(),
    }
  }),

  way<PrismaTransaction>('Prisma', async (url) => {
    const prisma = new PrismaStandIn(url)
    return {
      transact: (body) => prisma.$transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.$executeRaw(Prisma.sql`UPDATE account SET balance = ${balance} WHERE id = 1`),
      setGuarded: (tx, balance, guard) =>
        tx.$executeRaw(Prisma.sql`UPDATE account SET balance = ${balance} WHERE id = 1 AND ${guard.with(Prisma.sql)}`),
      mistaken: [prisma],
      outside: prisma,
      close: () => prisma.$disconnect(),
    }
  }),

  way<EntityManager>('TypeORM', async (url) => {
    const { DataSource } = await import('typeorm')
    const source = await new DataSource({ type: 'postgres', url }).initialize()
    return {
      transact: (body) => source.transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.query('UPDATE account SET balance = $1 WHERE id = 1', [balance]),
      async setGuarded(tx, balance, guard) {
        const text = `UPDATE account SET balance = $1 WHERE id = 1 AND ${guard.text}`
        const [, count]: [unknown, number] = await tx.query(text, [balance, ...guard.values])
        return count
      },
      mistaken: [source, source.manager, source.createQueryRunner()],
      outside: source.manager,
      close: () => source.destroy(),
    }
  }),

  way<Knex.Transaction>('Knex', async (url) => {
    const { default: knexOf } = await import('knex')
    const knex = knexOf({ client: 'pg', connection: url })
    return {
      transact: (body) => knex.transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx('account').where({ id: 1 }).update({ balance }),
      setGuarded: (tx, balance, guard) => {
        const predicate = guard.with((strings, ...values) => tx.raw(strings.join('?'), values))
        return tx('account').where({ id: 1 }).andWhere(predicate).update({ balance })
      },
      mistaken: [knex],
      outside: knex,
      close: () => knex.destroy(),
    }
  }),

  way<Knex.Transaction>('Objection', async (url) => {
    const { default: knexOf } = await import('knex')
    const { Model, raw } = await import('objection')
    class AccountModel extends Model {
      static override readonly tableName = 'account'
      declare id: number
      declare balance: number
    }
    const knex = knexOf({ client: 'pg', connection: url })
    return {
      transact: (body) => knex.transaction(body),
      check: (tx, token) => token.check(tx),
      set: async (tx, balance) => AccountModel.query(tx).where('id', 1).patch({ balance }),
      setGuarded: async (tx, balance, guard) => {
        const predicate = guard.with((strings, ...values) => raw(strings.join('?'), values))
        return AccountModel.query(tx).where('id', 1).where(predicate).patch({ balance })
      },
      mistaken: [knex, AccountModel.bindKnex(knex)],
      outside: knex,
      close: () => knex.destroy(),
    }
  }),

  way<MikroManager>('MikroORM', async (url) => {
    const { EntitySchema, sql: mikroSql } = await import('@mikro-orm/core')
    const { MikroORM } = await import('@mikro-orm/postgresql')
    const AccountEntity = new EntitySchema<Account>({
      name: 'Account',
      tableName: 'account',
      properties: { id: { type: 'integer', primary: true }, balance: { type: 'integer' } },
    })
    const orm = await MikroORM.init({ clientUrl: url, entities: [AccountEntity] })
    return {
      transact: (body) => orm.em.fork().transactional(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.nativeUpdate(AccountEntity, { id: 1 }, { balance }),
      setGuarded: (tx, balance, guard) =>
        tx.nativeUpdate(AccountEntity, { id: 1, [String(guard.with(mikroSql))]: [] }, { balance }),
      mistaken: [], // in the body orm.em itself is in the transaction
      outside: orm.em,
      close: () => orm.close(),
    }
  }),

  way<SequelizeTransaction>('Sequelize', async (url) => {
    const { QueryTypes, Sequelize } = await import('sequelize')
    const sequelize = new Sequelize(url, { logging: false })
    return {
      transact: (body) => sequelize.transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) =>
        sequelize.query('UPDATE account SET balance = $1 WHERE id = 1', { bind: [balance], transaction: tx }),
      async setGuarded(tx, balance, guard) {
        const text = `UPDATE account SET balance = $1 WHERE id = 1 AND ${guard.text}`
        const bind = [balance, ...guard.values]
        const [, count] = await sequelize.query(text, { bind, transaction: tx, type: QueryTypes.UPDATE })
        return count
      },
      mistaken: [sequelize],
      outside: null,
      close: () => sequelize.close(),
    }
  }),

  way<DatabaseTransactionConnection>('Slonik', async (url) => {
    const { createPool, sql } = await import('slonik')
    const pool = await createPool(url)
    return {
      transact: (body) => pool.transaction(body),
      check: (tx, token) =>
        token.check({ query: (text: string, values: string[]) => tx.query({ ...sql.unsafe``, sql: text, values }) }),
      set: (tx, balance) => tx.query(sql.unsafe`UPDATE account SET balance = ${balance} WHERE id = 1`),
      async setGuarded(tx, balance, guard) {
        const { rowCount } = await tx.query(
          sql.unsafe`UPDATE account SET balance = ${balance} WHERE id = 1 AND ${guard.with(sql.fragment)}`,
        )
        return rowCount
      },
      mistaken: [pool],
      outside: pool,
      close: () => pool.end(),
    }
  }),

  way<TransactionSql>('postgres.js', async (url) => {
    const { default: postgres } = await import('postgres')
    const sql = postgres(url, { onnotice: () => {} })
    return {
      transact: async (body) => {
        await sql.begin(body)
      },
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx`UPDATE account SET balance = ${balance} WHERE id = 1`,
      async setGuarded(tx, balance, guard) {
        const { count } = await tx`UPDATE account SET balance = ${balance} WHERE id = 1 AND ${guard.with(tx)}`
        return count
      },
      mistaken: [sql],
      outside: sql,
      close: () => sql.end(),
    }
  }),

  way<ITask<object>>('pg-promise', async (url) => {
    const { default: pgPromise } = await import('pg-promise')
    const db = pgPromise({ noWarnings: true })(url)
    return {
      transact: (body) => db.tx(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.none('UPDATE account SET balance = $1 WHERE id = 1', [balance]),
      async setGuarded(tx, balance, guard) {
        const text = `UPDATE account SET balance = $1 WHERE id = 1 AND ${guard.text}`
        const { rowCount } = await tx.result(text, [balance, ...guard.values])
        return rowCount
      },
      mistaken: [db],
      outside: db,
      close: () => db.$pool.end(),
    }
  }),

  way<Parameters<Parameters<NodePgDatabase['transaction']>[0]>[0]>('Drizzle on `pg`', async (url) => {
    const { and, eq, sql } = await import('drizzle-orm')
    const { drizzle } = await import('drizzle-orm/node-postgres')
    const account = await drizzleAccount()
    const pool = new Pool({ connectionString: url })
    const db = drizzle({ client: pool })
    return {
      transact: (body) => db.transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.update(account).set({ balance }).where(eq(account.id, 1)),
      async setGuarded(tx, balance, guard) {
        const { rowCount } = await tx
          .update(account)
          .set({ balance })
          .where(and(eq(account.id, 1), guard.with(sql)))
        return rowCount
      },
      mistaken: [db],
      outside: db,
      close: () => pool.end(),
    }
  }),

  way<Parameters<Parameters<PostgresJsDatabase['transaction']>[0]>[0]>('Drizzle on postgres.js', async (url) => {
    const { and, eq, sql } = await import('drizzle-orm')
    const { drizzle } = await import('drizzle-orm/postgres-js')
    const { default: postgres } = await import('postgres')
    const account = await drizzleAccount()
    const client = postgres(url)
    const db = drizzle({ client })
    return {
      transact: (body) => db.transaction(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.update(account).set({ balance }).where(eq(account.id, 1)),
      async setGuarded(tx, balance, guard) {
        const { count } = await tx
          .update(account)
          .set({ balance })
          .where(and(eq(account.id, 1), guard.with(sql)))
        return count
      },
      mistaken: [db],
      outside: db,
      close: () => client.end(),
    }
  }),

  way<Transaction<{ account: Account }>>('Kysely', async (url) => {
    const { Kysely, PostgresDialect, sql } = await import('kysely')
    const db = new Kysely<{ account: Account }>({
      dialect: new PostgresDialect({ pool: new Pool({ connectionString: url }) }),
    })
    return {
      transact: (body) => db.transaction().execute(body),
      check: (tx, token) => token.check(tx),
      set: (tx, balance) => tx.updateTable('account').set({ balance }).where('id', '=', 1).execute(),
      async setGuarded(tx, balance, guard) {
        const { numUpdatedRows } = await tx
          .updateTable('account')
          .set({ balance })
          .where('id', '=', 1)
          .where(guard.with(sql<boolean>))
          .executeTakeFirstOrThrow()
        return numUpdatedRows
      },
      mistaken: [db],
      outside: db,
      close: () => db.destroy(),
    }
  }),
]
