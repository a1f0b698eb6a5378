/** What may befall etcd: its members, their connections to each other, and its keeper's commands. */
import { type Etcd, type EtcdMember, postJson, until } from 'lease-servers'
import type { ReportLoss } from '../ground.ts'
import type { RemoteProxy } from '../grounds/proxies.ts'
import { nowMs } from '../recorder.ts'
import { impairAll } from './connections.ts'
import { between, fault, type Fault, lasting, oneOf, repeatedly, some, type Span } from './strike.ts'

/** Within it etcd answers what an operator asks, or the nemesis asks again. */
const ANSWER_MS = 10_000
const USUAL: Span = { fromMs: 800, toMs: 4000 }

/** With one member or three. */
export function etcdNemeses(etcd: Etcd): readonly Fault[] {
  const [first] = etcd.members
  const ask = async (path: string, body: object = {}): Promise<unknown> =>
    postJson(`${first?.endpoint ?? ''}/v3/${path}`, ANSWER_MS, body)
  return [
    fault('etcd-maintenance', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async (battle, say) => {
      const way = oneOf(battle, ['compaction', 'defragmentation'])
      say(way)
      if (way === 'compaction') {
        const range = (await ask('kv/range', { key: 'AA==', limit: 1 })) as { readonly header?: { revision?: string } }
        // A revision that was compacted already is an error: then there was nothing to do.
        await ask('kv/compaction', { revision: range.header?.revision ?? '0', physical: true })
      } else for (const { endpoint } of etcd.members) await postJson(`${endpoint}/v3/maintenance/defragment`, ANSWER_MS)
      return () => undefined
    }),
    fault('etcd-nospace', { breaks: 'server', lasts: USUAL }, async () => {
      const memberID = (await first?.status())?.id ?? '0'
      await ask('maintenance/alarm', { action: 'ACTIVATE', memberID, alarm: 'NOSPACE' })
      return async () => {
        await until('etcd has no alarm', async () => {
          await ask('maintenance/alarm', { action: 'DEACTIVATE', memberID, alarm: 'NOSPACE' }).catch(() => undefined)
          const got = (await ask('maintenance/alarm', { action: 'GET' }).catch(() => ({ alarms: [1] }))) as {
            readonly alarms?: readonly unknown[]
          }
          return (got.alarms ?? []).length === 0
        })
      }
    }),
    fault('etcd-lease-revoke', { breaks: 'server', lasts: USUAL, isControl: true }, async (battle) =>
      repeatedly(battle, { fromMs: 100, toMs: 800 }, async () => {
        const { leases = [] } = (await ask('lease/leases')) as { readonly leases?: readonly { readonly ID: string }[] }
        // It may have ended by itself by now.
        for (const { ID } of some(battle, leases, 3)) await ask('lease/revoke', { ID })
      }),
    ),
  ]
}

/** With one member. */
export function etcdRestore({ members: [member] }: Etcd, lost: ReportLoss): Fault {
  return fault(
    'etcd-restore',
    { breaks: 'server', lasts: { fromMs: 0, toMs: 500 }, isControl: true },
    async (battle) => {
      await member?.backUp()
      const fromMs = nowMs()
      await lasting(battle, between(battle, { fromMs: 1000, toMs: 4000 }))
      await member?.restoreBackup()
      lost({ what: 'etcd-restore', fromMs, toMs: nowMs() })
      return () => undefined
    },
  )
}

/** With three members. @param peers in front of each member, in their order: the others come to it that way only */
export function etcdMemberNemeses(etcd: Etcd, peers: readonly RemoteProxy[]): readonly Fault[] {
  const { members } = etcd
  return [
    fault('etcd-leader-kill', { breaks: 'server', lasts: { fromMs: 100, toMs: 1500 } }, async () => {
      const leader = await etcd.leader()
      await leader.kill()
      return async () => leader.restart()
    }),
    fault('etcd-member-pause', { breaks: 'server', lasts: { fromMs: 100, toMs: 3500 } }, (battle) => {
      const [member] = some(battle, members, 1)
      member?.pause()
      return () => member?.resume()
    }),
    fault('etcd-majority-loss', { breaks: 'server', lasts: { fromMs: 500, toMs: 3500 } }, async (battle, say) => {
      const spared = Math.floor(battle.random() * members.length)
      const lost = members.filter((_, index) => index !== spared)
      const way = oneOf(battle, ['kill', 'stop'])
      say(way)
      if (way === 'kill') await Promise.all(lost.map(async (member) => member.kill()))
      else for (const member of lost) member.pause()
      return async () => {
        if (way === 'kill') await Promise.all(lost.map(async (member) => member.restart()))
        else for (const member of lost) member.resume()
        await etcd.leader()
      }
    }),
    fault('etcd-move-leader', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async (battle, say) => {
      const leader = await etcd.leader()
      const others = members.filter((member) => member !== leader)
      const target = others[Math.floor(battle.random() * others.length)]
      const targetID = (await target?.status())?.id
      say(`to ${targetID ?? 'nobody'}`)
      if (targetID !== undefined) {
        await postJson(`${leader.endpoint}/v3/maintenance/transfer-leadership`, ANSWER_MS, { targetID })
      }
      return () => undefined
    }),
    fault('etcd-peer-partition', { breaks: 'server', lasts: { fromMs: 800, toMs: 5000 } }, async (battle, say) => {
      const index = Math.floor(battle.random() * members.length)
      const way = oneOf(battle, ['to it', 'from it', 'both'])
      say(`member ${index}, ${way}`)
      const kind = oneOf(battle, ['drop', 'hold'])
      const own = peers.slice(index, index + 1)
      const others = peers.filter((_, peer) => peer !== index)
      const from = `X-Server-From: ${hexOf(await idOf(members[index]))}`
      const mends = await Promise.all([
        ...(way === 'from it' ? [] : [impairAll(own, { kind })]),
        // Each connection between peers names the member that opened it.
        ...(way === 'to it' ? [] : [impairAll(others, { kind, on: { first: from } })]),
      ])
      return async () => {
        for (const mend of mends) await mend()
        await etcd.leader()
      }
    }),
  ]
}

async function idOf(member: EtcdMember | undefined): Promise<string> {
  const status = await until('a member of etcd says who it is', async () => member?.status(), 50)
  return status.id
}

/** As etcd writes it in headers. */
function hexOf(id: string): string {
  return BigInt(id).toString(16)
}
