"""Write one HTML page that shows what every reply of a conversation attends to."""

from sra_fast.report.viewer.page_writer import DEFAULT_BYTES as DEFAULT_BYTES
from sra_fast.report.viewer.page_writer import PageTooLargeError as PageTooLargeError
from sra_fast.report.viewer.page_writer import page_html as page_html
from sra_fast.report.viewer.page_writer import write_page as write_page
from sra_fast.report.viewer.viewed_conversation import ViewedConversation as ViewedConversation
from sra_fast.report.viewer.viewed_conversation import ViewedReply as ViewedReply
from sra_fast.report.viewer.viewed_conversation import ViewedTurn as ViewedTurn
from sra_fast.report.viewer.viewed_conversation import ViewError as ViewError
