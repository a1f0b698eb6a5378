/** The ways in of docs/substrates/postgres.md, one for each ORM and driver: the table there quotes this file. */
import { EntitySchema as MikroSchema, sql as mikroSql } from '@mikro-orm/core'
import { MikroORM, type EntityManager as MikroManager } from '@mikro-orm/postgresql'
import { and, eq, sql as drizzleSql } from 'drizzle-orm'
import { drizzle as drizzleOnPg, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import { drizzle as drizzleOnPostgresJs, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import knexOf, { type Knex } from 'knex'
import { Kysely, PostgresDialect, sql as kyselySql, type Transaction } from 'kysely'
import type { Token } from 'lease-core'
import type { SqlGuard } from 'lease-postgres'
import { Model, raw } from 'objection'
import { Pool, type PoolClient } from 'pg'
import pgPromise, { type ITask } from 'pg-promise'
import postgres, { type TransactionSql } from 'postgres'
import { QueryTypes, Sequelize, type Transaction as SequelizeTransaction } from 'sequelize'
import { createPool, sql as slonikSql, type DatabaseTransactionConnection } from 'slonik'
import { DataSource, type EntityManager } from 'typeorm'
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
  readonly open: (url: string) => Promise<Driver<Tx>>
}

const way = <Tx>(name: string, open: (url: string) => Promise<Driver<Tx>>): WayIn =>
  ({ name, open }) as unknown as WayIn

const account = pgTable('account', { id: integer().primaryKey(), balance: integer().notNull() })

interface Account {
  id: number
  balance: number
}

class AccountModel extends Model {
  static override readonly tableName = 'account'
  declare id: number
  declare balance: number
}

const AccountEntity = new MikroSchema<Account>({
  name: 'Account',
  tableName: 'account',
  properties: { id: { type: 'integer', primary: true }, balance: { type: 'integer' } },
})

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
    const pool = await createPool(url)
    const sql = slonikSql
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
    const pool = new Pool({ connectionString: url })
    const db = drizzleOnPg({ client: pool })
    const sql = drizzleSql
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
    const client = postgres(url)
    const db = drizzleOnPostgresJs({ client })
    const sql = drizzleSql
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
    const db = new Kysely<{ account: Account }>({
      dialect: new PostgresDialect({ pool: new Pool({ connectionString: url }) }),
    })
    const sql = kyselySql
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
