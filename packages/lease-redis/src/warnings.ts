/** What the server's set-up takes away from the promises. */
import type { SubstrateWarning } from 'lease-core/adapter'
import { explained } from './connection.ts'

/** @param answer of `inspectScript` */
export function inspectionWarnings([
  refusal = '',
  silence = '',
  queues = '',
  memory = '',
  persistence = '',
  server = '',
  replication = '',
]: readonly string[]): SubstrateWarning[] {
  const warnings: SubstrateWarning[] = []
  const warn = (applies: boolean, warning: string, message: string): void => {
    if (applies) warnings.push({ warning, message })
  }
  const stranger = strangerIn(server)
  warn(
    stranger !== undefined,
    'untested-server',
    `The server calls itself ${stranger}. It speaks the language of Redis, but lease-redis is tested with Redis alone: nobody has checked that its scripts are atomic, that its clock lets keys expire as Redis does, and that what was granted lasts.`,
  )
  const version = settingIn(server, 'redis_version') ?? ''
  warn(
    Number.parseInt(version, 10) < 7,
    'old-server',
    `The server is, or acts as, Redis ${version}: lease-redis needs 7 or later, and cannot claim anything here.`,
  )
  const replica = refusal.startsWith('READONLY')
  warn(
    !replica && settingIn(replication, 'role') === 'slave',
    'writable-replica',
    'The server is a replica that takes writes (replica-read-only no): what is granted here is unknown to its master and is overwritten. Connect to the master (by Sentinels, or as a Cluster).',
  )
  warn(
    replica,
    'replica',
    'The server is a replica: no lease can be claimed or read here. Connect to the master (by Sentinels, or as a Cluster).',
  )
  warn(refusal !== '' && !replica, 'no-writes', `No lease can be claimed here: ${wordsFor(refusal)}.`)
  warn(
    silence !== '',
    'publish-forbidden',
    `Those who wait for a lease cannot be notified that it is free (${silence}): they learn of it by timer only. Allow the channels of the leases (ACL: &).`,
  )
  warn(
    queues !== '',
    'queue-forbidden',
    `The server keeps no queue of those who wait for a lease (${queues}): they are not notified that it is free, and learn of it by timer only. Allow the commands that docs/substrates/redis.md lists.`,
  )
  warn(
    memory === '' || persistence === '',
    'settings-unreadable',
    'INFO is forbidden for this user, so nobody has checked that maxmemory-policy is noeviction and that grants survive a restart.',
  )
  const policy = settingIn(memory, 'maxmemory_policy')
  warn(
    policy !== undefined && policy !== 'noeviction',
    'eviction',
    `maxmemory-policy is ${policy}: a full server may throw leases away while they are held, and another may then be granted the same lease. Set it to noeviction.`,
  )
  warn(
    settingIn(persistence, 'aof_enabled') === '0',
    'no-append-only-file',
    'The server keeps no append-only file: a restart forgets the grants since the last snapshot, and another may then be granted the same lease. Set appendonly to yes.',
  )
  return warnings
}

function wordsFor(refusal: string): string {
  const error = explained(new Error(refusal))
  return error instanceof Error ? error.message : refusal
}

/** What a server that is not Redis says it is, if it does: Dragonfly, KeyDB, Upstash, Garnet, Kvrocks and others. */
function strangerIn(server: string): string | undefined {
  if (/keydb/i.test(server)) return 'KeyDB'
  const names = [...server.matchAll(/^(\w+?)_version:/gm)].map(([, name = '']) => name)
  return names.find((name) => !familiar.has(name))
}

/** Valkey is a fork of Redis 7.2. */
const familiar = new Set(['redis', 'gcc', 'valkey'])

function settingIn(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1]
}
