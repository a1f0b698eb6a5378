import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { programOf, until } from 'lease-servers'
import { openSqlite, sqliteDrivers, type OpenConnection } from './sqlite-drivers.ts'
import type { Step, TellerOrder } from './sqlite-teller.ts'

const LONGER_THAN_A_TEST_MS = 3_600_000

for (const driver of sqliteDrivers) {
  describe(`example: processes that share leases in SQLite, over ${driver}`, () => {
    let folder: string
    let file: string
    let books: OpenConnection
    const tellers: Teller[] = []

    beforeEach(async () => {
      folder = await mkdtemp(join(tmpdir(), 'lease-sqlite-'))
      file = join(folder, 'bank.db')
      books = openSqlite(driver, file)
      books.exec(`PRAGMA journal_mode = WAL; CREATE TABLE account (balance INTEGER); INSERT INTO account VALUES (0);
        CREATE TABLE journal (id INTEGER PRIMARY KEY, name TEXT, token INTEGER)`)
    })
    afterEach(async () => {
      for (const teller of tellers.splice(0)) await teller.kill()
      books.close()
      await rm(folder, { recursive: true, force: true })
    })

    function start(order: Omit<TellerOrder, 'driver' | 'file'>): Teller {
      const teller = new Teller({ driver, file, ...order })
      tellers.push(teller)
      return teller
    }

    function balance(): number {
      return (books.prepare('SELECT balance FROM account').all() as [{ balance: number }])[0].balance
    }

    function journal(): readonly { readonly name: string; readonly token: number }[] {
      return books.prepare('SELECT name, token FROM journal ORDER BY id').all() as { name: string; token: number }[]
    }

    it('of three processes one holds the lease at a time, and fencing tokens rise', async () => {
      const names = ['ann', 'ben', 'cid']
      const racing = names.map((name) => start({ name, deposits: 10, leaseMs: LONGER_THAN_A_TEST_MS }))
      for (const teller of racing) {
        expect(await teller.ended).to.equal(0)
        expect(teller.said, 'another was granted the lease meanwhile').not.to.include('refused')
      }
      expect(balance()).to.equal(30)
      const tokens = journal().map(({ token }) => token)
      expect(tokens).to.deep.equal([...new Set(tokens)].toSorted((one, other) => one - other))
    })

    it('a process that was stopped while it held the lease writes nothing after another has it', async () => {
      const ann = start({ name: 'ann', deposits: 1, leaseMs: 1_000, stopAt: 'read' })
      await ann.says('read')
      ann.signal('SIGSTOP')
      const ben = start({ name: 'ben', deposits: 1, leaseMs: LONGER_THAN_A_TEST_MS })
      expect(await ben.ended).to.equal(0)
      expect(balance()).to.equal(1)
      ann.signal('SIGCONT')
      ann.tell()
      await ann.says('refused')
      expect(balance()).to.equal(1)
      expect(journal().map(({ name }) => name)).to.deep.equal(['ben'])
    })

    it('what a killed process wrote in its transaction is undone, and the next one gets the lease', async () => {
      const ann = start({ name: 'ann', deposits: 1, leaseMs: 1_000, stopAt: 'checked' })
      await ann.says('checked')
      const ben = start({ name: 'ben', deposits: 1, leaseMs: LONGER_THAN_A_TEST_MS })
      await ann.kill()
      expect(await ben.ended).to.equal(0)
      expect(balance()).to.equal(1)
      expect(journal().map(({ name }) => name)).to.deep.equal(['ben'])
    })
  })
}

class Teller {
  /** The exit code; null: it was killed. */
  readonly ended: Promise<number | null>
  readonly said: Step[] = []
  readonly #process: ChildProcess

  constructor(order: TellerOrder) {
    const program = programOf('./sqlite-teller.ts', import.meta.url)
    this.#process = spawn(process.execPath, [...program, JSON.stringify(order)], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.#process.on('message', (step: Step) => this.said.push(step))
    this.ended = once(this.#process, 'close').then(([code]) => code as number | null)
  }

  async says(step: Step): Promise<void> {
    await until(`a teller says "${step}"`, () => this.said.includes(step) || this.#checkRuns())
  }

  tell(): void {
    this.#process.send('go on')
  }

  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#process.kill(name)
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.ended
  }

  #checkRuns(): false {
    expect(this.#process.exitCode, 'the exit code of a teller that was to say more').to.equal(null)
    return false
  }
}
