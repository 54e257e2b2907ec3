/** What the examples deploy. Each is exported by its module, so that it can be packed with all that it imports. */

export interface Report {
  readonly status: string;
  readonly version: string;
  readonly day?: string;
}

export function dailyReport(event?: { readonly day: string }): Report {
  console.log('generating the daily report');
  return { status: 'success', version: '1.0', ...event };
}

export function dailyReportV2(event?: { readonly day: string }): Report {
  console.log('generating the enhanced daily report');
  return { status: 'success', version: '2.0', ...event };
}

export function checkHealth(): string {
  console.log('all is well');
  return 'ok';
}
