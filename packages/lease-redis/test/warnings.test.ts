/** What `inspect` makes of what servers say about themselves. */
import { expect } from 'chai'
import { eventually, newCall } from 'lease-scenes'
import { startRedis } from 'lease-servers'
import { inspectionWarnings } from '#src/warnings.ts'
import { openSetting } from './setting.ts'

const memory = 'maxmemory_policy:noeviction\r\n'
const persistence = 'aof_enabled:1\r\n'
const master = '# Replication\r\nrole:master\r\n'
const wordsOf = (server: string, replication: string = master): string[] =>
  inspectionWarnings(['', '', '', memory, persistence, server, replication]).map(({ warning }) => warning)

describe('what servers say about themselves', () => {
  const redis =
    '# Server\r\nredis_version:7.4.1\r\nredis_git_sha1:00000000\r\ngcc_version:12.2.0\r\nexecutable:/data/redis-server\r\n'
  const strangers: Record<string, string> = {
    Dragonfly: '# Server\r\nredis_version:7.4.0\r\ndragonfly_version:df-v1.25.0\r\nredis_mode:standalone\r\n',
    KeyDB: '# Server\r\nredis_version:7.0.15\r\nexecutable:/usr/local/bin/keydb-server\r\n',
    Upstash: '# Server\r\nupstash_version:1.16.0\r\nredis_version:7.2.0\r\n',
    Garnet: '# Server\r\ngarnet_version:1.0.30\r\nos:Unix\r\nredis_version:7.4.3\r\n',
    Kvrocks: '# Server\r\nversion:2.9.0\r\nkvrocks_version:2.9.0\r\nredis_version:7.0.0\r\n',
  }

  for (const [name, server] of Object.entries(strangers)) {
    it(`is reported when they are ${name}, which nobody has tested`, () => {
      const [warning] = inspectionWarnings(['', '', '', memory, persistence, server, master])
      expect(warning?.warning).to.equal('untested-server')
      expect(warning?.message.toLowerCase()).to.include(name.toLowerCase())
    })
  }

  it('is no reason to warn when they are Redis, or its fork', () => {
    expect(wordsOf(redis)).to.deep.equal([])
    expect(wordsOf(`${redis}server_name:valkey\r\nvalkey_version:8.0.1\r\n`)).to.deep.equal([])
    expect(wordsOf('')).to.deep.equal([]) // INFO is forbidden, which is reported by itself
  })

  it('is reported when they are too old', () => {
    expect(wordsOf('# Server\r\nredis_version:6.2.14\r\n')).to.deep.equal(['old-server'])
    expect(wordsOf('# Server\r\nredis_version:6.3.4\r\nexecutable:/usr/bin/keydb-server\r\n')).to.deep.equal([
      'untested-server',
      'old-server',
    ])
  })

  it('is reported when they are a replica that takes writes', async () => {
    await using original = await startRedis({ settings: { 'repl-diskless-sync-delay': '0' } })
    await using server = await startRedis({ appendonly: true, settings: { 'replica-read-only': 'no' } })
    await using setting = openSetting(server.url)
    const substrate = setting.substrate()
    const words = async (): Promise<string[]> => (await substrate.inspect(newCall())).map(({ warning }) => warning)
    expect(await words()).to.deep.equal([])
    await setting.redis.replicaof('127.0.0.1', original.port)
    await eventually(async () => (await setting.redis.info('replication')).includes('master_link_status:up'))
    expect(await words()).to.deep.equal(['writable-replica'])
  })
})
