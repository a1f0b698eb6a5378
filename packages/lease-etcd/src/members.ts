/**
 * Which members of a cluster are worth a call: those that answer.
 *
 * etcd3 draws a member at random for each call and runs the call under the policy of that member. A policy that throws without
 * running the call makes etcd3 draw another member. So the policies of one Etcd3 avoid a member that has left a call
 * unanswered, until it answers again:
 *
 *     answers ──no answer, or no connection──▶ avoided ──a call each ten seconds tries it──▶ answers
 *
 * Where all members are avoided, each of them is tried.
 */
import { systemClock } from 'lease-core'
import { failureOf } from './explain.ts'

/** How long a member is avoided before one call tries it again. */
const AVOIDED_MS = 10_000

export class Members {
  /** Until when each member is avoided, by the monotonic clock; 0: it answers. */
  readonly #avoidedUntilMs = new Map<string, number>()

  add(member: string): void {
    this.#avoidedUntilMs.set(member, 0)
  }

  /**
   * Runs a call of this member.
   *
   * @throws MemberAvoided it was not run, and another member answers
   */
  async call<T>(member: string, run: () => T | PromiseLike<T>): Promise<T> {
    const untilMs = this.#avoidedUntilMs.get(member) ?? 0
    if (untilMs > 0) {
      const nowMs = systemClock.monotonic()
      if (nowMs < untilMs && this.#anotherAnswers(nowMs)) throw new MemberAvoided(member)
      // Calls that come meanwhile do not wait for the outcome of this one.
      this.#avoidedUntilMs.set(member, nowMs + AVOIDED_MS)
    }
    try {
      const answer = await run()
      // A stream has only been begun: the member has not said anything yet.
      if (untilMs > 0 && !isStream(answer)) this.#avoidedUntilMs.set(member, 0)
      return answer
    } catch (error) {
      const failure = failureOf(error)
      if (failure === 'silent' || failure === 'unavailable') {
        this.#avoidedUntilMs.set(member, systemClock.monotonic() + AVOIDED_MS)
      }
      throw error
    }
  }

  #anotherAnswers(nowMs: number): boolean {
    for (const untilMs of this.#avoidedUntilMs.values()) if (untilMs <= nowMs) return true
    return false
  }
}

/** This member was not asked: it has left a call unanswered, and another one answers. */
export class MemberAvoided extends Error {
  constructor(member: string) {
    super(`${member} has not answered lately`)
  }
}

function isStream(answer: unknown): boolean {
  return typeof (answer as { readonly on?: unknown } | undefined)?.on === 'function'
}
