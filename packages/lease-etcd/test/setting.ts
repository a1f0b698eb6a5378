/** Drivers and substrates that are closed in the end. */
import { EtcdSubstrate, failFast, type EtcdSubstrateOptions } from 'lease-etcd'
import { Etcd3, type IOptions } from 'etcd3'
import { unique } from 'lease-scenes'

export interface Setting extends AsyncDisposable {
  readonly etcd: Etcd3
  /** A substrate over `etcd` that is closed in the end. */
  substrate(options?: Partial<EtcdSubstrateOptions>): EtcdSubstrate
  /** A further driver, closed in the end. */
  newEtcd(options?: Partial<IOptions>): Etcd3
}

export function openSetting({ endpoints }: { readonly endpoints: readonly string[] }): Setting {
  const drivers: Etcd3[] = []
  const substrates: EtcdSubstrate[] = []
  const newEtcd = (options?: Partial<IOptions>): Etcd3 => {
    const driver = new Etcd3({ hosts: [...endpoints], ...failFast(), ...options })
    drivers.push(driver)
    return driver
  }
  const etcd = newEtcd()
  return {
    etcd,
    newEtcd,
    substrate(options) {
      const substrate = new EtcdSubstrate({ etcd, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      for (const driver of drivers) driver.close()
    },
  }
}
