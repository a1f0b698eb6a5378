import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { Manager } from 'lease-core'
import { postgresClient } from 'lease-postgres'
import { freshDatabase, isMatrix, npmFolder, postgresTargets, until } from 'lease-servers'
import { openFleet } from './fleet.ts'

const examples = new URL('./', import.meta.url.replace('/.test-js/', '/'))
const sources = fileURLToPath(new URL('prisma', examples))

/** The program, built as its package.json says, beside the packages of this workspace. */
async function buildProgram(): Promise<AsyncDisposable & { readonly file: string }> {
  const engine = 'no-engine' // Prisma asks for its schema engine also where nothing needs it
  const home = await npmFolder({
    name: 'prisma',
    manifest: await readFile(join(sources, 'package.json'), 'utf8'),
    cache: fileURLToPath(new URL('node_modules/.cache/', examples)),
    async prepare(folder) {
      await writeFile(join(folder, engine), '#!/bin/sh\n', { mode: 0o755 })
      for (const name of ['lease-core', 'lease-postgres', 'lease-recipes']) {
        await symlink(fileURLToPath(new URL(`../../packages/${name}`, examples)), join(folder, 'node_modules', name))
      }
    },
  })
  const project = await mkdtemp(join(home, 'project-'))
  await cp(sources, project, { recursive: true })
  const env = { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: join(home, engine), CHECKPOINT_DISABLE: '1' }
  for (const script of ['generate', 'build']) {
    await promisify(execFile)('npm', ['run', script], { cwd: project, env })
  }
  return {
    file: join(project, 'dist/server.js'),
    [Symbol.asyncDispose]: () => rm(project, { recursive: true, force: true }),
  }
}

describe('example: transfers behind HTTP with Prisma', () => {
  if (!isMatrix()) {
    it.skip('a guarded transfer (skipped: in test:matrix, for Prisma is 300 MB)', () => {})
    return
  }
  let program: Awaited<ReturnType<typeof buildProgram>>
  before(async function () {
    this.timeout(600_000) // the first time it is installed
    program = await buildProgram()
  })
  after(() => program?.[Symbol.asyncDispose]())

  for (const target of postgresTargets()) {
    it(`keeps transfers of one account apart, writes nothing after a loss, and ends with 0 after SIGTERM, on ${target.name}`, async () => {
      await using database = await freshDatabase(target)
      await using fleet = openFleet(database.url)
      const { pool } = fleet
      await pool.query('CREATE TABLE "Account" (id integer PRIMARY KEY, balance integer NOT NULL)')
      await pool.query('INSERT INTO "Account" VALUES (1, 100), (2, 100)')
      const balances = async (): Promise<number[]> =>
        (await pool.query<{ balance: number }>('SELECT balance FROM "Account" ORDER BY id')).rows.map(
          (row) => row.balance,
        )

      // The fraud service: answers when the test says so.
      const asked: ServerResponse[] = []
      const fraudService = createServer((_, response) => void asked.push(response)).listen(0, '127.0.0.1')
      await once(fraudService, 'listening')
      const { port } = fraudService.address() as AddressInfo
      const env = { FRAUD_SERVICE: `http://127.0.0.1:${port}`, PORT: '0' }
      const programs = [fleet.start(program.file, env), fleet.start(program.file, env)]
      const urls: string[] = []
      for (const one of programs) urls.push(`http://127.0.0.1:${(await one.says(/^listens.*"port":(\d+)/))[1]}`)
      const post = async (url: string | undefined, amount: number): Promise<number> => {
        const body = JSON.stringify({ from: 1, to: 2, amount })
        return (await fetch(url ?? '', { method: 'POST', body })).status
      }

      const first = post(urls[0], 10)
      await until('the first transfer asks', () => asked.length === 1)
      expect(await post(urls[1], 20)).to.equal(409) // waits for five seconds, then gives up
      expect(asked).to.have.length(1)
      asked[0]?.end()
      expect(await first).to.equal(200)
      expect(await balances()).to.deep.equal([90, 110])

      const late = post(urls[1], 50)
      await until('the late transfer asks', () => asked.length === 2)
      const client = postgresClient({ pool, namespace: 'bank', schema: 'leases', notify: false, listen: false })
      const operator = new Manager({ client })
      await operator.revoke('account-1')
      asked[1]?.end()
      expect(await late).to.equal(409)
      expect(await balances()).to.deep.equal([90, 110])
      await operator.stop()
      await client.close()

      const last = post(urls[0], 5)
      await until('the last transfer asks', () => asked.length === 3)
      for (const one of programs) one.terminate()
      asked[2]?.end()
      expect(await last).to.equal(200)
      expect(await balances()).to.deep.equal([85, 115])
      for (const one of programs) expect(await one.ended(), one.lines.join('\n')).to.equal(0)
      fraudService.close()
    })
  }
})
