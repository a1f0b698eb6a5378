import { expect } from 'chai'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  isMatrix,
  startDynamodb,
  startEtcd,
  startPgbouncer,
  startPostgres,
  startPostgresPair,
  startRedis,
  startRedisCluster,
} from 'lease-servers'
import { findBinaries } from '#src/binaries.ts'
import { unpackDebian } from '#src/debian.ts'
import { failure } from '#src/failures.ts'
import { givenDynamodb } from '#src/dynamodb-targets.ts'
import { givenEtcd } from '#src/etcd-targets.ts'
import { givenPostgres } from '#src/postgres-targets.ts'
import { givenRedis } from '#src/redis-targets.ts'

/** The message of what it rejects with, which has one line. */
async function messageOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).to.be.instanceOf(Error)
  const { message } = error as Error
  expect(message).not.to.include('\n')
  expect(message.length, message).to.be.lessThan(800)
  return message
}

describe('no server of our own', () => {
  const before: NodeJS.ProcessEnv = {}
  let folder: string

  beforeEach(() => {
    for (const name of ['PATH', 'TMPDIR', 'LEASE_SERVERS_ORIGINS']) before[name] = process.env[name]
    folder = mkdtempSync(join(tmpdir(), 'no-server-'))
  })

  afterEach(() => {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
    rmSync(folder, { recursive: true, force: true })
  })

  /** Looks in Debian's archive only, with these programs on PATH and nothing unpacked yet. */
  async function searched(programs: Readonly<Record<string, string>>): Promise<string> {
    const bin = join(folder, 'bin')
    mkdirSync(bin)
    for (const [name, script] of Object.entries(programs)) {
      writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`)
      chmodSync(join(bin, name), 0o755)
    }
    process.env['PATH'] = bin
    const cache = join(folder, 'cache')
    const unpacked = async (): Promise<[]> => {
      await unpackDebian(['no-such-server'], cache)
      return []
    }
    const wanted = { title: 'Server 1', program: 'server', suits: () => true, hint: 'install it' }
    const message = await messageOf(findBinaries({ ...wanted, origins: { debian: unpacked } }))
    expect(existsSync(cache) ? readdirSync(cache) : [], 'what is left').to.deep.equal([])
    expect(message).to.match(/^no Server 1 on this machine: install it \(debian: /)
    return message
  }

  it('without apt: the message says so', async () => {
    expect(await searched({})).to.include('apt-get is not on this machine')
  })

  const knows = 'echo "Candidate: 1.0"'

  it('without a network: the message has the reason that apt gives, and nothing is left', async () => {
    const get = `case "$*" in *download*) echo "Err:1 pool/server" >&2; echo "E: Failed to fetch pool/server  Could not resolve archive.invalid" >&2; exit 100;; esac`
    const message = await searched({ 'apt-get': get, 'apt-cache': knows, 'dpkg-deb': 'exit 0' })
    expect(message).to.include('apt-get failed: E: Failed to fetch pool/server  Could not resolve archive.invalid')
  })

  it('of a package that apt does not know: the message says what may help', async () => {
    const message = await searched({ 'apt-get': 'exit 0', 'apt-cache': 'exit 0', 'dpkg-deb': 'exit 0' })
    expect(message).to.include('apt knows no package no-such-server (apt-get update may help)')
  })

  it('of a package that cannot be unpacked: the message has the reason, and nothing is left', async () => {
    const get = `case "$*" in *download*) echo x > server.deb;; esac`
    const unpack = 'echo "dpkg-deb: error: server.deb: No space left on device" >&2; exit 2'
    const message = await searched({ 'apt-get': get, 'apt-cache': knows, 'dpkg-deb': unpack })
    expect(message).to.include('dpkg-deb failed: dpkg-deb: error: server.deb: No space left on device')
  })

  const starts = {
    PostgreSQL: async () => startPostgres(),
    'PostgreSQL with a standby': async () => startPostgresPair(),
    pgbouncer: async () => startPgbouncer('postgres://postgres@127.0.0.1:1/postgres'),
    Redis: async () => startRedis(),
    'a Redis Cluster': async () => startRedisCluster(),
    etcd: async () => startEtcd({ nodes: 3 }),
    'a local DynamoDB': async () => startDynamodb(),
  }

  const matrixOnly = isMatrix() ? it : it.skip // each starts a server of its kind first

  for (const [name, start] of Object.entries(starts)) {
    const declare = name === 'Redis' ? it : matrixOnly
    declare(`without a folder for temporary files: ${name} says which, and what to set`, async () => {
      if (name !== 'a Redis Cluster') await (await start()).stop() // found, whatever comes next
      const missing = join(folder, 'missing')
      process.env['TMPDIR'] = missing
      const message = await messageOf(start())
      expect(message).to.equal(
        `no server can be started in ${missing} (ENOENT): set TMPDIR to a folder that exists and that you may write to`,
      )
    })
  }

  it('on a full disk: the message says where to free space, and the whole log is the cause', () => {
    const log = 'creating\n'.repeat(50) + 'initdb: error: could not write: No space left on device\nremoving\n'
    const error = failure('initdb failed', log, '/some/tmp/lease-x')
    expect(error.message).to.equal(
      'initdb failed: initdb: error: could not write: No space left on device: free some space in /some/tmp, or set TMPDIR to a folder with more',
    )
    expect(String(error.cause)).to.include('creating')
  })
})

describe('a server that the environment names', () => {
  const given = {
    DATABASE_URL: [(at) => `postgres://postgres@${at}/postgres`, givenPostgres],
    REDIS_URL: [(at) => `redis://${at}`, givenRedis],
    ETCD_ENDPOINTS: [(at) => `http://${at}`, givenEtcd],
    DYNAMODB_ENDPOINT: [(at) => `http://${at}`, givenDynamodb],
  } satisfies Record<string, [(at: string) => string, (url: string, withinMs?: number) => Promise<unknown>]>
  const sockets: Socket[] = []
  let silent: Server

  before(async () => {
    silent = createServer((socket) => {
      socket.on('error', () => undefined)
      sockets.push(socket)
    })
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  })

  after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => silent.close(resolve))
  })

  for (const [variable, [urlOf, reach]] of Object.entries(given)) {
    const remedy = `: start it, correct ${variable}, or unset ${variable} to have servers started`

    it(`fails the run with a remedy when it is not there: ${variable}`, async () => {
      const message = await messageOf(reach(urlOf('127.0.0.1:1')))
      expect(message).to.match(new RegExp(`^what ${variable} names cannot be reached \\(.*ECONNREFUSED.*\\)`))
      expect(message.endsWith(remedy), message).to.equal(true)
    })

    it(`fails the run with a remedy when it hangs: ${variable}`, async () => {
      const address = silent.address()
      const port = typeof address === 'object' ? address?.port : undefined
      const message = await messageOf(reach(urlOf(`127.0.0.1:${port}`), 200))
      expect(message).to.match(new RegExp(`^what ${variable} names cannot be reached \\(.*(no answer|timeout).*\\)`))
      expect(message.endsWith(remedy), message).to.equal(true)
    })

    it(`fails the run with a remedy when it has no address: ${variable}`, async () => {
      const message = await messageOf(reach('not an address', 5000))
      expect(message).to.include(`what ${variable} names cannot be reached (`)
    })
  }
})
