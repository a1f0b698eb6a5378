/** Authorities, elections and `lead`. */
import { lead, type LeaderTerm } from '#src/lead.ts'
import { stopAndRenew } from './counted.ts'
import { TTL_MS, type Life } from './life.ts'
import { afterTurns, takeHeld, work, WorkFailed, type Act, type Step } from './step.ts'
import type { World } from './world.ts'

const heard = new WeakSet<object>()

/** Listens to the authority and the node of this process, once. */
export function listen(world: World, life: Life): void {
  const { authority, node, watcher } = life
  const fails = (): never => {
    throw new WorkFailed('of a listener')
  }
  if (!heard.has(watcher)) {
    heard.add(watcher)
    watcher.on('error', (error) => judgeEnd(world, life, 'watcher', error))
  }
  if (!heard.has(authority)) {
    heard.add(authority)
    authority.on('acquired', fails).on('lost', fails)
    authority.on('acquired', (held) => {
      takeHeld(
        { world, life },
        {
          recipe: 'authority',
          resource: 'authority',
          held,
          isExclusive: true,
          source: authority,
          isPresent: () => authority.term === held,
        },
      )
    })
    authority.on('error', (error) => judgeEnd(world, life, 'authority', error))
  }
  if (!heard.has(node)) {
    heard.add(node)
    node.on('select', fails).on('deselect', fails).on('change', fails)
    node.on('select', (_, id, held) => {
      if (id !== node.localId) world.problem('5 answers', `${node.localId} was selected as ${id}`)
      if (node.term !== held) return // given up before the event
      takeHeld(
        { world, life },
        {
          recipe: 'election',
          resource: 'path',
          held,
          isExclusive: true,
          source: node,
          // Not by the fencing token: who has lost a term by its clock may adopt the same one.
          isPresent: () => node.term === held,
        },
      )
    })
    node.on('error', (error) => judgeEnd(world, life, 'node', error))
  }
}

/** A candidacy ends unasked only with its manager. */
function judgeEnd(world: World, life: Life, what: string, error: unknown): void {
  if (life.isStopping || life.isOver) return
  world.problem('6 ended', `the ${what} of p${life.name} ended unasked: ${String(error)}`)
}

function ready(step: Step): void {
  const { world, random, life, calls } = step
  listen(world, life)
  const wait = random.pick([false, true, 500, 4_000])
  const signal = calls.signal(step, wait === true ? 0.8 : 0.3)
  const { authority } = life
  void world.call(life, `ready(${wait})`, () => authority.ready({ wait, signal }), { signal })
}

function heartbeat({ world, life }: Step): void {
  listen(world, life)
  const { authority } = life
  void world.call(life, 'heartbeat()', () => authority.heartbeat(), { codes: ['LEASE_LOST'] })
}

function extend(step: Step): void {
  const { world, life, calls } = step
  listen(world, life)
  const { authority } = life
  const signal = calls.signal(step, 0.3)
  void world.call(life, 'extend()', () => authority.extend({ signal }), { signal, codes: ['LEASE_LOST'] })
}

/** The end of what it has is asked for. */
function asked({ things }: Life, source: object): void {
  for (const thing of things) if (thing.source === source) thing.isAsked = true
}

function releaseAuthority(step: Step): void {
  const { world, life, calls } = step
  const { authority } = life
  asked(life, authority)
  const signal = calls.signal(step, 0.2)
  void world.call(life, 'release() of the authority', () => authority.release({ signal }), {
    signal,
    codes: ['LEASE_NOT_HELD'],
    done: () => {
      // Others may have asked for it again since.
      if (!authority.standing) world.nothingIsRelied(life, authority)
    },
  })
}

export function startNode(step: Step): void {
  const { world, life, calls } = step
  listen(world, life)
  const { node } = life
  const signal = calls.signal(step, 0.2)
  void world.call(life, 'start()', () => node.start({ signal }), {
    signal,
    expects: (error) => (error as { readonly code?: string }).code === 'LEASE_STOPPED',
  })
}

/** One that only watches. */
function startWatcher({ world, random, life }: Step): void {
  listen(world, life)
  const { watcher } = life
  if (watcher.started && random.chance(0.3)) return void world.call(life, 'stop() of the watcher', () => watcher.stop())
  void world.call(life, 'start() of the watcher', () => watcher.start(), {
    expects: (error) => (error as { readonly code?: string }).code === 'LEASE_STOPPED',
  })
}

/** An operator, or another part of this process, takes a lease from those who lead, or keeps it from them for a while. */
function revokeLeader({ world, random, life }: Step): void {
  const lease = random.pick(['authority', 'path', 'lead'])
  for (const thing of life.things) if (thing.lease === lease) thing.isAsked = true
  void world.call(life, `revoke(${lease})`, () => life.manager.revoke(lease))
}

function intrude(step: Step): void {
  const { world, random, life, calls } = step
  const lease = random.pick(['path', 'lead'])
  // By the name of the node or candidate of this process, too: its own attempts fail during that time.
  const holder = random.chance(0.7) ? `p${life.name}` : `i${calls.serial()}`
  const options = { duration: TTL_MS, wait: random.pick([false, false, 4_000]) }
  void world.call(life, `hold(${lease}, ${holder}, ${options.wait})`, () => life.manager.hold(lease, holder, options), {
    codes: ['LEASE_CLAIM_DENIED', 'LEASE_INVALID'],
    done: (held) => {
      if (held.held) takeHeld(step, { recipe: 'hold', resource: lease, held, isExclusive: true })
    },
  })
}

function stopNode(step: Step): void {
  const { world, random, life } = step
  const { node } = life
  const turns = random.int(20)
  const stop = (): void => {
    void afterTurns(turns, () => {
      if (!world.runs(life)) return
      asked(life, node)
      void world.call(life, 'stop() of the node', () => node.stop(), {
        done: () => {
          if (!node.started) world.nothingIsRelied(life, node)
        },
      })
    })
  }
  if (random.chance(0.5)) life.onGranted.push(stop)
  else stop()
}

function resign({ world, life }: Step): void {
  const { node } = life
  asked(life, node)
  void world.call(life, 'resign()', () => node.resign(), { codes: ['LEASE_NOT_HELD'] })
}

function updateNode({ world, life, calls }: Step): void {
  const { node } = life
  void world.call(life, 'update()', () => node.update(`v${life.name}-${calls.serial()}`), { codes: ['LEASE_NOT_HELD'] })
}

/** What all nodes say of the leader is true, or was. */
function askLeader({ world, random, life }: Step): void {
  const { leader } = random.pick([life.node, life.watcher])
  if (leader === undefined) return
  if (world.history.term('path', leader.fencingToken)?.holder !== leader.id)
    world.problem(
      '5 leader',
      `p${life.name} says that ${leader.id} leads in term ${leader.fencingToken}, which never was`,
    )
}

export function campaign(
  step: Step,
  { again = true, signal }: { readonly again?: boolean; readonly signal?: AbortSignal | undefined } = {},
): void {
  const { world, random, life } = step
  if (life.candidate !== undefined) return
  const body = (term: LeaderTerm): Promise<string> => {
    const { signal, fencingToken, lease } = term
    const parts = { recipe: 'lead', resource: 'lead', lease, fencingToken, isExclusive: true, held: term, signal }
    return work(step, { ...parts, relies: () => term.held })
  }
  const candidate = lead(life.manager, 'lead', body, {
    clock: life.clock,
    holder: random.chance(0.5) ? `p${life.name}` : undefined,
    duration: TTL_MS,
    maxPause: 1_000,
    again,
    signal,
  })
  life.candidate = candidate
  void world.call(life, `lead(${again})`, () => candidate.finished, {
    codes: ['LEASE_LOST'],
    expects: (error) => !again && error instanceof WorkFailed,
    done: () => {
      if (life.candidate === candidate) life.candidate = undefined
    },
    failed: () => {
      if (life.candidate === candidate) life.candidate = undefined
    },
  })
}

function campaignSometimes(step: Step): void {
  campaign(step, { again: step.random.chance(0.8), signal: step.calls.signal(step, 0.3) })
}

function stopLeaders(step: Step): void {
  const { world, random, life } = step
  const { authority, candidate } = life
  const turns = random.int(20)
  const recipe = candidate === undefined || random.chance(0.5) ? authority : candidate
  const stop = (): void => {
    void afterTurns(turns, () => {
      if (world.runs(life) && !life.isStopping) stopAndRenew(step, recipe)
    })
  }
  if (random.chance(0.5)) life.onGranted.push(stop)
  else stop()
}

export const LEADER_ACTS: readonly (readonly [number, Act])[] = [
  [6, ready],
  [5, heartbeat],
  [3, extend],
  [2, releaseAuthority],
  [4, startNode],
  [1, stopNode],
  [2, resign],
  [1, updateNode],
  [2, askLeader],
  [4, campaignSometimes],
  [1, stopLeaders],
  [2, startWatcher],
]

export const LEADER_OPERATOR_ACTS: readonly (readonly [number, Act])[] = [
  [2, revokeLeader],
  [2, intrude],
]
