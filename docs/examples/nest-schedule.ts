/** A job of @nestjs/schedule: each slot runs once in the whole fleet. */
import { Injectable } from '@nestjs/common'
// oxlint-disable-next-line typescript/consistent-type-imports -- Nest reads the types of a constructor when it runs
import { Cron, SchedulerRegistry } from '@nestjs/schedule'
import { cronSlot } from 'lease-cron'
// oxlint-disable-next-line typescript/consistent-type-imports -- as above
import { OncePer } from 'lease-recipes'

@Injectable()
export class Reports {
  private readonly once: OncePer
  private readonly registry: SchedulerRegistry

  constructor(once: OncePer, registry: SchedulerRegistry) {
    this.once = once
    this.registry = registry
  }

  @Cron('0 3 * * *', { name: 'report', timeZone: 'Europe/Berlin' })
  async report(): Promise<void> {
    const slot = cronSlot(this.registry.getCronJob('report'))
    await this.once.run('report', slot, ({ signal }) => this.send(signal))
  }

  async send(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
  }
}
